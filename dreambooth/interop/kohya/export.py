"""A model's concepts and settings as a dataset.toml that kohya's sd-scripts read to the same pictures and captions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreambooth.captions.prompts import has_filewords, split_at_filewords
from dreambooth.captions.reading import FILENAME, CaptionSource, read_caption_bytes
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.images.listing import find_images
from dreambooth.interop.kohya.differences import file_differences
from dreambooth.settings import Concept, Settings

_NO_CAPTION_EXTENSION = ".none"  # an ending that no caption file has: then class_tokens are the whole caption


def export_dataset(concepts: Sequence[Concept], settings: Settings) -> tuple[str, list[str]]:
    """(the text of the file, a line for each thing that sd-scripts have no word for). UserError without concepts."""
    import tomlkit

    unsupported: list[str] = []
    subsets = [subset for concept in concepts for subset in _subsets(concept, settings, unsupported)]
    if not subsets:
        raise UserError("There is no concept with pictures to write: choose the folder with your pictures first.")
    document = tomlkit.document()
    document.add(tomlkit.comment("Written by DreamBooth for Stable Diffusion WebUI."))
    datasets = tomlkit.aot()
    # Pictures with a metadata file can't share a dataset with others.
    for listed in (False, True):
        own = [subset for subset in subsets if ("metadata_file" in subset) == listed]
        if own:
            table = tomlkit.item(_dataset(settings))
            rows = tomlkit.aot()
            for subset in own:
                rows.append(tomlkit.item(subset))
            table.append("subsets", rows)
            datasets.append(table)
    document.append("datasets", datasets)
    unsupported += [*_duplicate_folders(subsets), *_reading_differences(concepts), *_run_differences(settings)]
    return tomlkit.dumps(document), unsupported


def _dataset(settings: Settings) -> dict[str, Any]:
    width, height = settings.resolution, settings.resolution_height
    rule, step = settings.bucket_rule, settings.bucket_step
    shape = [width, height] if height and rule != "area" else width
    size = {"resolution": shape, "batch_size": settings.train_batch_size, "enable_bucket": rule != "one size"}
    if rule == "one size":
        return size
    shorter, longer = min(width, height or width), max(width, height)
    return {
        **size,
        "min_bucket_reso": settings.bucket_min_side or max(step, shorter // 2 // step * step),
        "max_bucket_reso": settings.bucket_max_side or -(-2 * longer // step) * step,
        "bucket_reso_steps": step,
        "bucket_no_upscale": settings.bucket_no_upscale,
    }


def _duplicate_folders(subsets: Sequence[dict[str, Any]]) -> list[str]:
    places = Counter(subset.get("metadata_file", subset["image_dir"]) for subset in subsets)
    return [
        f"{folder}: stands in {count} subsets; in a dataset of sd-scripts only the first counts."
        for folder, count in places.items()
        if count > 1
    ]


def _reading_differences(concepts: Sequence[Concept]) -> list[str]:
    said = file_differences([concept for concept in concepts if concept.reading_rule == "kohya"])
    if any(concept.reading_rule != "kohya" for concept in concepts):
        said.append(
            "Caption parsing own: captions are tidied here, sd-scripts read them and choose pictures by their own rule. "
            "Choose the reading rule kohya to train on the same."
        )
    return said


def _run_differences(settings: Settings) -> list[str]:
    said = []
    if settings.bucket_rule == "area":
        said.append(
            "Bucket rule area: sd-scripts choose buckets by their own rule. Choose the rule kohya to train on the same."
        )
    said.append("Learning rates, network and length are no part of a dataset.toml.")
    return said


def _subsets(concept: Concept, settings: Settings, unsupported: list[str]) -> Iterator[dict[str, Any]]:
    """A subset for each folder with pictures, since sd-scripts look into none below; then one for class pictures."""
    folder = concept.instance_data_dir.strip()
    if folder:
        common = _common_keys(concept, settings, concept.instance_prompt, unsupported)
        if concept.metadata_file.strip():
            yield {
                "image_dir": _absolute_path(folder), "metadata_file": _absolute_path(concept.metadata_file),
                "num_repeats": concept.num_repeats, **{k: v for k, v in common.items() if k != "class_tokens"},
            }  # fmt: skip
        else:
            regularization = {"is_reg": True} if concept.regularization else {}
            for folder in _image_folders(expand_user(folder), concept.subfolders):
                own = {"image_dir": _absolute_path(folder), **regularization, "num_repeats": concept.num_repeats}
                yield {**own, **_caption_keys(concept, concept.instance_prompt, folder, unsupported), **common}
    if concept.class_data_dir.strip() and not concept.regularization:
        unsupported.append(f"{concept.class_data_dir}: partners of the pictures here; there they are shown among them.")
        for folder in _image_folders(expand_user(concept.class_data_dir.strip()), True):
            captions = _caption_keys(concept, concept.class_prompt, folder, unsupported)
            yield {"image_dir": _absolute_path(folder), "is_reg": True, "num_repeats": 1, **captions,
                   **_common_keys(concept, settings, concept.class_prompt, [])}  # fmt: skip


def _common_keys(concept: Concept, settings: Settings, template: str, unsupported: list[str]) -> dict[str, Any]:
    variation = Variation.of(settings, concept)
    if concept.instance_token.strip() or concept.class_token.strip():
        unsupported.append(f"{concept.instance_data_dir}: captions without the tokens get them here, not there.")
    if concept.max_steps > 0:
        unsupported.append(f"{concept.instance_data_dir}: there is no maximum of steps for one folder.")
    values = {
        "shuffle_caption": variation.shuffle_tags,
        "keep_tokens": variation.keep_tokens,
        "caption_tag_dropout_rate": variation.tag_dropout,
        "caption_dropout_rate": variation.caption_dropout,
        "flip_aug": variation.hflip,
        "keep_tokens_separator": variation.keep_separator,
        "secondary_separator": variation.second_separator,
        "enable_wildcard": variation.wildcards or concept.caption_lines == "random",
    }
    prefix, suffix = _text_around_filewords(template, concept.reading_rule == "kohya")
    values |= {"caption_prefix": prefix, "caption_suffix": suffix}
    return {key: value for key, value in values.items() if value not in (False, "", 0)}


def _text_around_filewords(template: str, verbatim: bool) -> tuple[str, str]:
    """What stands before and after [filewords]; ("", "") for a prompt without."""
    before, *parts = split_at_filewords(template, 1)
    if not parts:
        return "", ""
    [after] = parts
    # Sd-scripts put a space between.
    return (before.removesuffix(" "), after.removeprefix(" ")) if verbatim else (before.strip(), after.strip())


def _caption_keys(concept: Concept, template: str, folder: Path, unsupported: list[str]) -> dict[str, Any]:
    """Where the captions of a folder's pictures come from."""
    if template.strip() and not has_filewords(template):
        return {"caption_extension": _NO_CAPTION_EXTENSION, "class_tokens": template.strip()}
    source = CaptionSource.from_concept(concept)
    pictures = [path for path in find_images(folder) if path.parent == folder]
    counts = {
        extension: sum(os.path.isfile(path.with_suffix(extension)) for path in pictures) for extension in source.extensions
    }
    extension = max(counts, key=counts.__getitem__, default=_NO_CAPTION_EXTENSION)
    uncaptioned = [path for path in pictures if not os.path.isfile(path.with_suffix(extension))]
    said = {"caption_extension": extension}
    if FILENAME not in source.default_caption.lower():
        return {**said, "class_tokens": source.default_caption} if source.default_caption else said
    if uncaptioned:
        unsupported.append(f"{folder}: {len(uncaptioned)} pictures have no {extension}; their names are captions here, not there.")
    if source.caption_lines == "joined" and any(_count_lines(path.with_suffix(extension)) > 1 for path in pictures):
        unsupported.append(f"{folder}: of captions with several lines only the first counts there.")
    return said


def _count_lines(path: Path) -> int:
    try:
        return len((read_caption_bytes(path) or b"").strip().splitlines())
    except UserError:  # whoever trains with it says so
        return 0


def _image_folders(folder: Path, subfolders: bool) -> list[Path]:
    places = sorted({path.parent for path in find_images(folder)})
    return places if subfolders else [folder for folder in places if folder == folder]


def _absolute_path(path: str | Path) -> str:
    return expand_user(str(path).strip()).absolute().as_posix()
