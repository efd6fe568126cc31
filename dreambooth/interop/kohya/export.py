"""Export a model's concepts and settings as a dataset.toml with which sd-scripts train the same images and captions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreambooth.captions.folder_metadata import METADATA_NAMES, caption_near
from dreambooth.captions.metadata_rows import read_rows
from dreambooth.captions.prompts import has_filewords, split_at_filewords
from dreambooth.captions.reading import FILENAME, CaptionSource, read_caption_bytes
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.images.listing import find_images
from dreambooth.interop.kohya.differences import find_file_differences
from dreambooth.paths import clean_path
from dreambooth.settings import Concept, Settings
from dreambooth.text import count

_NO_CAPTION_EXTENSION = ".none"  # no file has this extension, so that sd-scripts use class_tokens as the caption


def export_dataset(concepts: Sequence[Concept], settings: Settings) -> tuple[str, list[str]]:
    """(TOML text, messages on what sd-scripts do not support). UserError if there is no concept with images."""
    import tomlkit

    unsupported: list[str] = []
    subsets = [subset for concept in concepts for subset in _make_subsets(concept, settings, unsupported)]
    if not subsets:
        raise UserError("There is no concept with images to export. Choose a folder of images first.")
    document = tomlkit.document()
    document.add(tomlkit.comment("Written by DreamBooth for Stable Diffusion WebUI."))
    datasets = tomlkit.aot()
    # In sd-scripts, subsets with and without a metadata file need separate datasets.
    for has_metadata in (False, True):
        selected = [subset for subset in subsets if ("metadata_file" in subset) == has_metadata]
        if selected:
            table = tomlkit.item(_dataset_keys(settings))
            rows = tomlkit.aot()
            for subset in selected:
                rows.append(tomlkit.item(subset))
            table.append("subsets", rows)
            datasets.append(table)
    document.append("datasets", datasets)
    unsupported += [*_find_duplicates(subsets), *_caption_differences(concepts), *_run_differences(settings)]
    return tomlkit.dumps(document), unsupported


def _dataset_keys(settings: Settings) -> dict[str, Any]:
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


def _find_duplicates(subsets: Sequence[dict[str, Any]]) -> list[str]:
    counts = Counter(subset.get("metadata_file", subset["image_dir"]) for subset in subsets)
    return [
        f"{folder} is in {n} subsets; sd-scripts use only the first one in a dataset."
        for folder, n in counts.items()
        if n > 1
    ]


def _caption_differences(concepts: Sequence[Concept]) -> list[str]:
    messages = find_file_differences([concept for concept in concepts if concept.reading_rule == "kohya"])
    if any(concept.reading_rule != "kohya" for concept in concepts):
        messages.append(
            "Caption parsing own: sd-scripts parse captions and choose images by other rules. Set Caption parsing to "
            "kohya to train on the same captions."
        )
    return messages


def _run_differences(settings: Settings) -> list[str]:
    messages = []
    if settings.bucket_rule == "area":
        messages.append(
            "Bucket rule area: sd-scripts choose buckets by another rule. Set Bucket rule to kohya to use "
            "the same buckets."
        )
    messages.append("Learning rates, network and training length are not part of a dataset.toml.")
    return messages


def _make_subsets(concept: Concept, settings: Settings, unsupported: list[str]) -> Iterator[dict[str, Any]]:
    """A subset for each folder of images, as sd-scripts do not search subfolders; then those of the class images."""
    folder = concept.instance_data_dir.strip()
    if folder:
        common = _common_keys(concept, settings, concept.instance_prompt, unsupported)
        if concept.metadata_file.strip():
            if not read_rows(clean_path(concept.metadata_file)).by_key:
                unsupported.append(
                    f"{concept.metadata_file}: sd-scripts read only JSON with a key for each image. Convert the file."
                )
            yield {
                "image_dir": _absolute_path(folder), "metadata_file": _absolute_path(concept.metadata_file),
                "num_repeats": concept.num_repeats, **{k: v for k, v in common.items() if k != "class_tokens"},
            }  # fmt: skip
        else:
            regularization = {"is_reg": True} if concept.regularization else {}
            for image_dir in _image_folders(clean_path(folder), concept.subfolders):
                keys = {"image_dir": _absolute_path(image_dir), **regularization, "num_repeats": concept.num_repeats}
                if settings.masked_loss and concept.mask_data_dir.strip():
                    keys["conditioning_data_dir"] = _absolute_path(concept.mask_data_dir)
                yield {**keys, **_caption_keys(concept, concept.instance_prompt, image_dir, unsupported), **common}
    if concept.class_data_dir.strip() and not concept.regularization:
        unsupported.append(
            f"{concept.class_data_dir}: each instance image is trained with a class image here; sd-scripts mix "
            "both at random."
        )
        for image_dir in _image_folders(clean_path(concept.class_data_dir), True):
            captions = _caption_keys(concept, concept.class_prompt, image_dir, unsupported)
            yield {"image_dir": _absolute_path(image_dir), "is_reg": True, "num_repeats": 1, **captions,
                   **_common_keys(concept, settings, concept.class_prompt, [])}  # fmt: skip


def _common_keys(concept: Concept, settings: Settings, template: str, unsupported: list[str]) -> dict[str, Any]:
    variation = Variation.of(settings, concept)
    if concept.instance_token.strip() or concept.class_token.strip():
        unsupported.append(
            f"{concept.instance_data_dir}: tokens are added to captions that lack them; sd-scripts do not add them."
        )
    if concept.max_steps > 0:
        unsupported.append(f"{concept.instance_data_dir}: sd-scripts have no maximum number of steps per folder.")
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
    prefix, suffix = _split_template(template, concept.reading_rule == "kohya")
    values |= {"caption_prefix": prefix, "caption_suffix": suffix}
    return {key: value for key, value in values.items() if value not in (False, "", 0)}


def _split_template(template: str, verbatim: bool) -> tuple[str, str]:
    """The text before and after [filewords]; ("", "") for a prompt without it."""
    before, *parts = split_at_filewords(template, 1)
    if not parts:
        return "", ""
    [after] = parts
    # sd-scripts join prefix, caption and suffix with spaces.
    return (before.removesuffix(" "), after.removeprefix(" ")) if verbatim else (before.strip(), after.strip())


def _caption_keys(concept: Concept, template: str, folder: Path, unsupported: list[str]) -> dict[str, Any]:
    """The keys that say where the captions of a folder's images come from."""
    if template.strip() and not has_filewords(template):
        return {"caption_extension": _NO_CAPTION_EXTENSION, "class_tokens": template.strip()}
    source = CaptionSource.from_concept(concept)
    images = [path for path in find_images(folder) if path.parent == folder]
    counts = {ext: sum(os.path.isfile(path.with_suffix(ext)) for path in images) for ext in source.extensions}
    extension = max(counts, key=counts.__getitem__, default=_NO_CAPTION_EXTENSION)
    uncaptioned = [path for path in images if not os.path.isfile(path.with_suffix(extension))]
    keys = {"caption_extension": extension}
    listed = [] if source.verbatim else [path for path in uncaptioned if caption_near(path, source.caption_lines)]
    if listed:
        unsupported.append(
            f"{folder}: {count(len(listed), 'image')} with a caption in {METADATA_NAMES}, which sd-scripts do not "
            "read. Write these captions into text files."
        )
        uncaptioned = [path for path in uncaptioned if path not in listed]
    if FILENAME not in source.default_caption.lower():
        return {**keys, "class_tokens": source.default_caption} if source.default_caption else keys
    if uncaptioned:
        unsupported.append(
            f"{folder}: {count(len(uncaptioned), 'image')} without a {extension} file; file names are used as "
            "captions here, but not in sd-scripts."
        )
    if source.caption_lines == "joined" and any(_count_lines(path.with_suffix(extension)) > 1 for path in images):
        unsupported.append(f"{folder}: sd-scripts use only the first line of captions with several lines.")
    return keys


def _count_lines(path: Path) -> int:
    try:
        return len((read_caption_bytes(path) or b"").strip().splitlines())
    except UserError:  # reported by the training plan
        return 0


def _image_folders(root: Path, subfolders: bool) -> list[Path]:
    folders = sorted({path.parent for path in find_images(root)})
    return folders if subfolders else [folder for folder in folders if folder == root]


def _absolute_path(path: str | Path) -> str:
    return clean_path(path).absolute().as_posix()
