"""A model's concepts and settings as a dataset.toml that kohya's sd-scripts read to the same pictures and captions."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreambooth.captions.reading import FILENAME, CaptionFiles, bytes_of
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.images.listing import find_images
from dreambooth.interop.kohya.differences import said_of_files
from dreambooth.settings import Concept, Settings

_NO_FILE = ".none"  # an ending that no caption file has: then class_tokens are the whole caption


def exported(concepts: Sequence[Concept], settings: Settings) -> tuple[str, list[str]]:
    """(the text of the file, a line for each thing that sd-scripts have no word for). UserError without concepts."""
    import tomlkit

    without: list[str] = []
    subsets = [subset for concept in concepts for subset in _subsets(concept, settings, without)]
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
    without += [*_twice(subsets), *_of_reading(concepts), *_of_the_run(settings)]
    return tomlkit.dumps(document), without


def _dataset(settings: Settings) -> dict[str, Any]:
    width, height = settings.resolution, settings.resolution_height
    rule, step = settings.bucket_rule, settings.bucket_step
    shape = [width, height] if height and rule != "area" else width
    size = {"resolution": shape, "batch_size": settings.train_batch_size, "enable_bucket": rule != "one size"}
    if rule == "one size":
        return size
    least, most = min(width, height or width), max(width, height)
    return {
        **size,
        "min_bucket_reso": settings.bucket_min_side or max(step, least // 2 // step * step),
        "max_bucket_reso": settings.bucket_max_side or -(-2 * most // step) * step,
        "bucket_reso_steps": step,
        "bucket_no_upscale": settings.bucket_no_upscale,
    }


def _twice(subsets: Sequence[dict[str, Any]]) -> list[str]:
    places = Counter(subset.get("metadata_file", subset["image_dir"]) for subset in subsets)
    return [
        f"{place}: stands in {count} subsets; in a dataset of sd-scripts only the first counts."
        for place, count in places.items()
        if count > 1
    ]


def _of_reading(concepts: Sequence[Concept]) -> list[str]:
    said = said_of_files([concept for concept in concepts if concept.reading_rule == "kohya"])
    if any(concept.reading_rule != "kohya" for concept in concepts):
        said.append(
            "Caption parsing own: captions are tidied here, sd-scripts read them and choose pictures by their own rule. "
            "Choose the reading rule kohya to train on the same."
        )
    return said


def _of_the_run(settings: Settings) -> list[str]:
    said = []
    if settings.bucket_rule == "area":
        said.append(
            "Bucket rule area: sd-scripts choose buckets by their own rule. Choose the rule kohya to train on the same."
        )
    said.append("Learning rates, network and length are no part of a dataset.toml.")
    return said


def _subsets(concept: Concept, settings: Settings, without: list[str]) -> Iterator[dict[str, Any]]:
    """A subset for each folder with pictures, since sd-scripts look into none below; then one for class pictures."""
    folder = concept.instance_data_dir.strip()
    if folder:
        common = _common(concept, settings, concept.instance_prompt, without)
        if concept.metadata_file.strip():
            yield {
                "image_dir": _path(folder), "metadata_file": _path(concept.metadata_file),
                "num_repeats": concept.num_repeats, **{k: v for k, v in common.items() if k != "class_tokens"},
            }  # fmt: skip
        else:
            regular = {"is_reg": True} if concept.regularization else {}
            for place in _places(expand_user(folder), concept.subfolders):
                own = {"image_dir": _path(place), **regular, "num_repeats": concept.num_repeats}
                yield {**own, **_captions(concept, concept.instance_prompt, place, without), **common}
    if concept.class_data_dir.strip() and not concept.regularization:
        without.append(f"{concept.class_data_dir}: partners of the pictures here; there they are shown among them.")
        for place in _places(expand_user(concept.class_data_dir.strip()), True):
            captions = _captions(concept, concept.class_prompt, place, without)
            yield {"image_dir": _path(place), "is_reg": True, "num_repeats": 1, **captions,
                   **_common(concept, settings, concept.class_prompt, [])}  # fmt: skip


def _common(concept: Concept, settings: Settings, template: str, without: list[str]) -> dict[str, Any]:
    variation = Variation.of(settings, concept)
    if concept.instance_token.strip() or concept.class_token.strip():
        without.append(f"{concept.instance_data_dir}: captions without the tokens get them here, not there.")
    if concept.max_steps > 0:
        without.append(f"{concept.instance_data_dir}: there is no maximum of steps for one folder.")
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
    prefix, suffix = _around(template, concept.reading_rule == "kohya")
    values |= {"caption_prefix": prefix, "caption_suffix": suffix}
    return {key: value for key, value in values.items() if value not in (False, "", 0)}


def _around(template: str, word_for_word: bool) -> tuple[str, str]:
    """What stands before and after [filewords]; ("", "") for a prompt without."""
    found = re.search(r"\[filewords\]", template, re.IGNORECASE)
    if not found:
        return "", ""
    before, after = template[: found.start()], template[found.end() :]
    # Sd-scripts put a space between.
    return (before.removesuffix(" "), after.removeprefix(" ")) if word_for_word else (before.strip(), after.strip())


def _captions(concept: Concept, template: str, folder: Path, without: list[str]) -> dict[str, Any]:
    """Where the captions of a folder's pictures come from."""
    if template.strip() and "[filewords]" not in template.lower():
        return {"caption_extension": _NO_FILE, "class_tokens": template.strip()}
    kept, pictures = CaptionFiles.of(concept), [path for path in find_images(folder) if path.parent == folder]
    having = {ending: sum(os.path.isfile(path.with_suffix(ending)) for path in pictures) for ending in kept.endings}
    ending = max(having, key=having.__getitem__, default=_NO_FILE)
    others = [path for path in pictures if not os.path.isfile(path.with_suffix(ending))]
    said = {"caption_extension": ending}
    if FILENAME not in kept.otherwise.lower():
        return {**said, "class_tokens": kept.otherwise} if kept.otherwise else said
    if others:
        without.append(f"{folder}: {len(others)} pictures have no {ending}; their names are captions here, not there.")
    if kept.lines == "joined" and any(_lines(path.with_suffix(ending)) > 1 for path in pictures):
        without.append(f"{folder}: of captions with several lines only the first counts there.")
    return said


def _lines(path: Path) -> int:
    try:
        return len((bytes_of(path) or b"").strip().splitlines())
    except UserError:  # whoever trains with it says so
        return 0


def _places(folder: Path, below: bool) -> list[Path]:
    places = sorted({path.parent for path in find_images(folder)})
    return places if below else [place for place in places if place == folder]


def _path(path: str | Path) -> str:
    return expand_user(str(path).strip()).absolute().as_posix()
