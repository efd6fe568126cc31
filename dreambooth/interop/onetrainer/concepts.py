"""Import OneTrainer's concepts: folders, captions, repeats, masks and augmentation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.captions.reading import decode_caption, read_caption_bytes
from dreambooth.errors import UserError
from dreambooth.images.listing import IMAGE_EXTENSIONS, find_images, masks_of
from dreambooth.interop.kohya.data_dirs import describe_missing
from dreambooth.interop.kohya.folders import list_direct_images
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.interop.onetrainer.keys import CONCEPT_DEFAULTS, UNSUPPORTED_CONCEPT_KEYS
from dreambooth.text import count

_EXTENSIONS = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif"})  # OneTrainer's
_CONDITIONING_IMAGE = "-condlabel"  # end of the names of images that OneTrainer does not train
_CHANGED_NAME = re.compile(r"^[\d\s_-]|_")  # file names that differ from the captions made from them here
_MAX_FACTOR = 20
_ROUNDING = 0.01  # tolerated relative difference of repeats


@dataclass(frozen=True)
class ConceptRow:
    """A concept of OneTrainer whose folder contains images."""

    name: str  # for messages
    values: NestedValues
    folder: Path
    images: list[Path]

    @property
    def kind(self) -> str:
        return self.values.word("type")

    @property
    def samples(self) -> float:
        """How often each image is used per epoch; OneTrainer allows fractions."""
        balancing = max(0.0, self.values.number("balancing"))
        if self.values.word("balancing_strategy") == "SAMPLES":
            return balancing / len(self.images)
        return balancing


def is_concepts(data: Any) -> bool:
    """Whether these are the values of a concepts.json: a list of objects with a path."""
    parts = {"text", "image", "balancing", "repeats", "include_subdirectories", "enabled"}
    return (
        isinstance(data, list)
        and bool(data)
        and all(isinstance(row, Mapping) and "path" in row for row in data)
        and any(not parts.isdisjoint(row) for row in data)
        and not any(isinstance(row.get(part), str) for row in data for part in ("text", "image"))  # metadata of images
    )


def import_concepts(report: ImportReport, rows: Sequence[Any], epochs: int = 0) -> tuple[int, int]:
    """Add the concepts to the report. ``epochs``: of the run, 0 if the number is not known.

    Returns:
        (epochs of OneTrainer that are one epoch here, samples in each of OneTrainer's epochs). The first is more than
        1 if images are used a fractional number of times per epoch.
    """
    read = [_read_row(report, row, number) for number, row in enumerate(rows, 1)]
    found = [row for row in read if row]
    trained = [row for row in found if row.kind != "VALIDATION"]
    repeats, factor = whole_repeats([row.samples for row in trained], epochs)
    for row, n_repeats in zip(trained, repeats, strict=True):
        _warn_rounded(report, row, n_repeats, factor)
        _add_concept(report, row, n_repeats)
    report.concepts.sort(key=lambda concept: concept.regularization)
    _add_validation(report, [row for row in found if row.kind == "VALIDATION"])
    _warn_unsupported(report, found)
    return factor, sum(int(row.samples * len(row.images)) for row in trained)


def whole_repeats(samples: Sequence[float], epochs: int) -> tuple[list[int], int]:
    """(whole repeats, epochs merged into one) for how often images are used per epoch, which may be fractional."""
    for factor in range(1, min(epochs, _MAX_FACTOR) + 1):
        rounded = [round(value * factor) for value in samples]
        exact = all(abs(n - value * factor) <= _ROUNDING * n for n, value in zip(rounded, samples, strict=True))
        if exact and all(n >= 1 for n in rounded) and epochs % factor == 0:
            return rounded, factor
    return [max(1, round(value)) for value in samples], 1


def _read_row(report: ImportReport, row: Any, number: int) -> ConceptRow | None:
    if not isinstance(row, Mapping):
        report.unsupported.append(f"concept {number}: skipped, as it is not an object with a path.")
        return None
    values = NestedValues(_upgrade(row), CONCEPT_DEFAULTS)
    path, label = values.text("path"), values.text("name")
    name = f"concept {number} ({label})" if label else f"concept {number}"
    if not values.flag("enabled"):
        report.unsupported.append(f"{name}: skipped, as it is disabled in OneTrainer.")
        return None
    if not path:
        report.unsupported.append(f"{name}: skipped, as its path is empty.")
        return None
    try:
        folder = report.resolve_path(path)
    except UserError as error:
        report.unsupported += [f"{name}, path: {problem}" for problem in error.problems]
        return None
    problem = describe_missing(folder)
    if problem:
        report.unsupported.append(f"{name}: skipped, as {problem}")
        return None
    subfolders = values.flag("include_subdirectories")
    images = find_images(folder) if subfolders else list_direct_images(folder, _is_readable_here)
    masks = set(masks_of(images).values())
    images = [path for path in images if path not in masks]
    if not images:
        below = "" if subfolders else " (include_subdirectories is off)"
        report.unsupported.append(f"{name}: skipped, as the folder {folder} contains no images{below}.")
        return None
    return ConceptRow(name, values, folder, images)


def _is_readable_here(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS


def _upgrade(row: Mapping[str, Any]) -> dict[str, Any]:
    """A concept of an older version under today's names."""
    values = dict(row)
    if "balancing" not in values and "repeats" in values:
        values["balancing"] = values.pop("repeats")
    if values.pop("validation_concept", False):
        values.setdefault("type", "VALIDATION")
    return values


def _warn_rounded(report: ImportReport, row: ConceptRow, repeats: int, factor: int) -> None:
    if abs(row.samples * factor - repeats) > _ROUNDING * repeats:
        unit = "samples per epoch" if row.values.word("balancing_strategy") == "SAMPLES" else "repeats"
        report.unsupported.append(
            f"{row.name}, balancing = {row.values.get('balancing')} {unit}: images are used a whole number of times "
            f"per epoch, so {count(repeats, 'repeat')} of its {count(len(row.images), 'image')} are trained."
        )


def _add_concept(report: ImportReport, row: ConceptRow, repeats: int) -> None:
    values = row.values
    regularization = values.word("type") == "PRIOR_PREDICTION"
    tag_dropout, caption_dropout = _dropout(report, row)
    concept = report.make_concept(
        {
            "instance_data_dir": str(row.folder),
            "subfolders": values.flag("include_subdirectories"),
            "regularization": regularization,
            "num_repeats": repeats,
            **_captions(report, row),
            "shuffle_tags": "on" if values.flag("text.enable_tag_shuffling") else "off",
            "keep_tokens": max(0, int(values.number("text.keep_tags_count"))),
            "tag_dropout": tag_dropout,
            "caption_dropout": caption_dropout,
            "hflip": "on" if values.flag("image.enable_random_flip") else "off",
        },
        row.name,
    )
    report.concepts.append(concept)
    report.imported.append(
        f"{row.name}, {row.folder} -> concept{' of regularization images' if regularization else ''}, "
        f"{count(len(row.images), 'image')}, repeats {concept.num_repeats}"
    )
    if regularization:
        report.set("prior_loss_weight", values.number("loss_weight"), f"{row.name}, loss_weight")
        report.set("split_loss", True)
        report.unsupported.append(
            f"{row.name}, type = PRIOR_PREDICTION: trained as regularization images, toward the noise instead of the "
            "base model's prediction, and as often as all other images together."
        )
    elif values.number("loss_weight") != 1:
        report.unsupported.append(
            f"{row.name}, loss_weight = {values.get('loss_weight')}: all concepts have the same loss weight. Use "
            "repeats to train a concept more."
        )


def _captions(report: ImportReport, row: ConceptRow) -> dict[str, Any]:
    source = row.values.text("text.prompt_source") or "sample"
    if source == "filename":
        changed = [path for path in row.images if _CHANGED_NAME.search(path.stem)]
        if changed:
            report.unsupported.append(
                f"{row.name}, prompt_source = filename: leading numbers are removed from file names, and underscores "
                f"become spaces ({count(len(changed), 'image')}, such as {changed[0].name})."
            )
        return {"caption_extension": "", "default_caption": "[filename]"}
    if source == "concept":
        return {"caption_extension": "", "default_caption": "", **_prompts_of_file(report, row)}
    if source != "sample":
        report.unsupported.append(f"{row.name}, prompt_source = {source!r}: unknown; the .txt files are used.")
    return {"caption_extension": ".txt", "default_caption": "", "caption_lines": "random"}


def _prompts_of_file(report: ImportReport, row: ConceptRow) -> dict[str, Any]:
    """A line of prompt_path is chosen each time an image is used: one line is a prompt, several are a wildcard."""
    given = row.values.text("text.prompt_path")
    try:
        path = report.resolve_path(given) if given else Path()
        data = read_caption_bytes(path) if given else None
        lines = [] if data is None else [line.strip() for line in decode_caption(data, path)[0].splitlines()]
    except UserError as error:
        report.unsupported += [
            f"{row.name}, prompt_path: {problem} Its captions are empty." for problem in error.problems
        ]
        return {}
    prompts = list(filter(None, lines))
    if not prompts:
        what = f"the file {given} does not exist or contains no prompt" if given else "prompt_path is empty"
        report.unsupported.append(
            f"{row.name}, prompt_source = concept: {what}, so its captions are empty, as in OneTrainer. Enter the "
            "instance prompt."
        )
        return {}
    if len(prompts) == 1:
        return {"instance_prompt": prompts[0]}
    usable = [prompt for prompt in prompts if not set(prompt) & set("{|}")]
    if len(usable) < len(prompts):
        report.unsupported.append(
            f"{row.name}, prompt_path: {count(len(prompts) - len(usable), 'prompt')} left out, as {{ | }} separate "
            "prompts here."
        )
    return {"instance_prompt": "{" + "|".join(usable) + "}", "wildcards": True} if usable else {}


def _dropout(report: ImportReport, row: ConceptRow) -> tuple[float, float]:
    """(dropout of each tag, dropout of the whole caption)."""
    values = row.values
    p = values.number("text.tag_dropout_probability")
    if not values.flag("text.tag_dropout_enable") or p <= 0:
        return 0.0, 0.0
    mode, special = values.word("text.tag_dropout_mode"), values.word("text.tag_dropout_special_tags_mode")
    if special not in ("NONE", "") and values.text("text.tag_dropout_special_tags"):
        report.unsupported.append(f"{row.name}, tag_dropout_special_tags: the same dropout applies to all tags.")
    if mode == "FULL" and values.number("text.keep_tags_count") <= 0:
        return 0.0, p
    if mode != "RANDOM":
        report.unsupported.append(
            f"{row.name}, tag_dropout_mode = {mode}: each tag is dropped by itself with the probability {p:g} (mode "
            "RANDOM)."
        )
    return p, 0.0


def _add_validation(report: ImportReport, rows: Sequence[ConceptRow]) -> None:
    """Folders of validation concepts, each as the validation directory of a concept without one."""
    for row in rows:
        free = next(
            (i for i, c in enumerate(report.concepts) if not c.regularization and not c.validation_data_dir), None
        )
        if free is None:
            report.unsupported.append(f"{row.name}: skipped, as each concept has only one validation directory.")
            continue
        concept = report.concepts[free]
        report.concepts[free] = dataclasses.replace(concept, validation_data_dir=str(row.folder))
        report.imported.append(f"{row.name}, {row.folder} -> validation directory of concept {free + 1}")


def _warn_unsupported(report: ImportReport, rows: Sequence[ConceptRow]) -> None:
    """One message per unsupported key, with the concepts that use it."""
    for key, (applies, explanation) in UNSUPPORTED_CONCEPT_KEYS.items():
        names = [row.name for row in rows if applies(row.values)]
        if names:
            report.unsupported.append(f"{key.partition('.')[2] or key} ({', '.join(names)}): {explanation}.")
    for row in rows:
        conditioning = [path for path in row.images if path.stem.endswith(_CONDITIONING_IMAGE)]
        if conditioning:
            report.unsupported.append(
                f"{row.name}: {count(len(conditioning), 'conditioning image')} (such as {conditioning[0].name}) would "
                "be trained as images, but not by OneTrainer. Move them to another folder."
            )
        others = [path for path in row.images if path.suffix.lower() not in _EXTENSIONS]
        if others:
            report.unsupported.append(
                f"{row.name}: {count(len(others), 'image')} in formats that OneTrainer skips (such as "
                f"{others[0].name}) are trained too."
            )
        row.values.skip(UNSUPPORTED_CONCEPT_KEYS)
        unknown = [name for name in row.values.unread() if name not in CONCEPT_DEFAULTS]
        if unknown:
            report.unsupported.append(f"{row.name}: unknown {', '.join(unknown)}, ignored.")
