"""Import of ai-toolkit's datasets as concepts: folders, captions, trigger words, repeats, masks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.captions.metadata_file import MetadataFile
from dreambooth.captions.prompts import TRIGGER, contains_token
from dreambooth.captions.reading import CaptionSource, read_caption
from dreambooth.errors import UserError
from dreambooth.images.listing import find_images
from dreambooth.interop.ai_toolkit.job_file import DATASET_DEFAULTS, Job
from dreambooth.interop.ai_toolkit.keys import NO_EFFECT_DATASET_KEYS, UNSUPPORTED_DATASET_KEYS
from dreambooth.interop.kohya.data_dirs import describe_missing
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues, as_number
from dreambooth.settings import Concept
from dreambooth.text import count

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")  # ai-toolkit's
_CONTROLS = "_controls_"  # folder of control images, which ai-toolkit does not train


@dataclass(frozen=True)
class Dataset:
    """A dataset whose folder contains images."""

    name: str  # for messages
    values: NestedValues
    folder: Path
    metadata: Path | None  # a JSON file with the captions
    images: list[Path]

    @property
    def is_regularization(self) -> bool:
        return self.values.flag("is_reg")

    @property
    def repeats(self) -> int:
        return max(1, int(self.values.number("num_repeats")))

    @property
    def resolutions(self) -> list[int]:
        given = self.values.get("resolution")
        numbers = map(as_number, given if isinstance(given, list) else [given])
        return [int(number) for number in numbers if number]


def import_datasets(report: ImportReport, job: Job) -> list[Dataset]:
    """Add a concept for each dataset to the report. Returns the datasets that are used."""
    rows = job.datasets if isinstance(job.datasets, list) else [job.datasets]
    read = [_read(report, job, row, number) for number, row in enumerate(rows, 1)]
    datasets = sorted((dataset for dataset in read if dataset), key=lambda dataset: dataset.is_regularization)
    for dataset in datasets:
        _add_concept(report, job, dataset)
    return datasets


def _read(report: ImportReport, job: Job, row: Any, number: int) -> Dataset | None:
    name = f"dataset {number}"
    if not isinstance(row, Mapping):
        report.unsupported.append(f"{name}: skipped, as it is not a table with a folder_path.")
        return None
    values = NestedValues(row, DATASET_DEFAULTS)
    key = "dataset_path" if values.text("dataset_path") else "folder_path"
    text = job.filled(values.text(key))
    if not text:
        report.unsupported.append(f"{name}: skipped, as folder_path is missing.")
        return None
    if values.text("type") != "image":
        report.unsupported.append(f"{name}: skipped, as its type is {values.text('type')}; only images are supported.")
        return None
    try:
        path = report.resolve_path(text)
        if os.path.isdir(path):
            return _with_images(report, Dataset(name, values, path, None, find_images(path)))
        if os.path.isfile(path):
            concept = Concept(instance_data_dir=str(path.parent), metadata_file=str(path))
            images = MetadataFile.from_concept(concept).paths
            return _with_images(report, Dataset(name, values, path.parent, path, images))
    except UserError as error:
        report.unsupported += [f"{name}, {key}: {problem}" for problem in error.problems]
        return None
    report.unsupported.append(f"{name}, {key}: skipped, as {describe_missing(path)}")
    return None


def _with_images(report: ImportReport, dataset: Dataset) -> Dataset | None:
    if not dataset.images:
        report.unsupported.append(f"{dataset.name}: skipped, as {dataset.folder} contains no images.")
        return None
    return dataset


def _add_concept(report: ImportReport, job: Job, dataset: Dataset) -> None:
    values = dataset.values
    extension = values.text("caption_type") or values.text("caption_ext")
    common: dict[str, Any] = {
        "instance_data_dir": str(dataset.folder),
        "metadata_file": str(dataset.metadata or ""),
        "subfolders": True,
        "regularization": dataset.is_regularization,
        "num_repeats": dataset.repeats,
        "caption_extension": f".{extension.lstrip('.')}" if extension else "",
        "default_caption": job.filled(values.text("default_caption")),
        "caption_lines": "joined",
        "shuffle_tags": "on" if values.flag("shuffle_tokens") else "off",
        # Shuffling moves all tags; Keep tags only protects them from being dropped.
        "keep_tokens": 0 if values.flag("shuffle_tokens") else max(0, int(values.number("keep_tokens"))),
        "tag_dropout": values.number("token_dropout_rate"),
        "caption_dropout": values.number("caption_dropout_rate"),
        "hflip": "on" if values.flag("flip_x") else "off",
    }
    if values.flag("shuffle_tokens") and values.number("token_dropout_rate") and values.number("keep_tokens"):
        report.unsupported.append(
            f"{dataset.name}, keep_tokens: with shuffle_tokens, all tags are shuffled and may be dropped."
        )
    concept = report.make_concept({**common, **_trigger(report, job, dataset, common)}, dataset.name)
    report.concepts.append(concept)
    report.imported.append(
        f"{dataset.name}, {dataset.folder} -> concept{' of regularization images' if concept.regularization else ''}, "
        f"{count(len(dataset.images), 'image')}, repeats {concept.num_repeats}"
    )


def _trigger(report: ImportReport, job: Job, dataset: Dataset, common: Mapping[str, Any]) -> dict[str, Any]:
    """The trigger word: in front of captions that lack it, and in the place of [trigger].

    Where no caption contains it, it is a part of the prompt, exactly as in ai-toolkit; else it is the instance token.
    """
    word = job.filled(dataset.values.text("trigger_word") or job.values.text("trigger_word"))
    captions = _captions(dataset, common)
    placeholders = sum(TRIGGER in caption for caption in captions) if captions else 0
    default = str(common["default_caption"])
    if not word or dataset.is_regularization:
        replaced = {"default_caption": default.replace(TRIGGER, word)}
        if placeholders:
            report.unsupported.append(
                f"{dataset.name}: {count(placeholders, 'caption')} contain [trigger], which stays as it is"
                f"{'' if dataset.is_regularization else ', as there is no trigger_word'}. Edit the captions."
            )
        return replaced
    contained = sum(contains_token(caption, word) or TRIGGER in caption for caption in captions)
    default = default.replace(TRIGGER, word)
    if not contained and not contains_token(default, word):
        report.imported.append(f"{dataset.name}, trigger_word -> instance prompt '{word} [filewords]'")
        return {"instance_prompt": f"{word} [filewords]", "default_caption": default}
    if contained < len(captions):
        report.unsupported.append(
            f"{dataset.name}, trigger_word = {word}: a comma follows it in {len(captions) - contained} of "
            f"{count(len(captions), 'caption')}, where it is added."
        )
    report.imported.append(f"{dataset.name}, trigger_word -> instance token {word!r}")
    return {"instance_token": word, "default_caption": default}


def _captions(dataset: Dataset, common: Mapping[str, Any]) -> list[str]:
    """The texts of the caption files; unreadable ones are reported by the training plan."""
    if dataset.metadata:
        return []
    source = CaptionSource((str(common["caption_extension"]),) if common["caption_extension"] else (), "")
    texts = []
    for image in dataset.images:
        try:
            texts.append(read_caption(image, source).text)
        except UserError:
            continue
    return texts


def report_unsupported(report: ImportReport, datasets: Sequence[Dataset]) -> None:
    """What of the datasets has not been imported, once everything else is."""
    for dataset in datasets:
        others = [path for path in dataset.images if path.suffix.lower() not in _EXTENSIONS]
        if others:
            report.unsupported.append(
                f"{dataset.name}: {count(len(others), 'image')} in formats that ai-toolkit skips (such as "
                f"{others[0].name}) are trained too."
            )
        controls = [path for path in dataset.images if path.parent.name == _CONTROLS]
        if controls:
            report.unsupported.append(
                f"{dataset.name}: {count(len(controls), 'control image')} in {controls[0].parent} would be trained as "
                "images, but not by ai-toolkit. Move the folder elsewhere."
            )
    by_message: dict[str, list[str]] = {}
    for dataset in datasets:
        for key, value in dataset.values.unread().items():
            name = key.partition(".")[0]
            if name in NO_EFFECT_DATASET_KEYS or value in (False, 0, "", [], {}):
                continue
            explanation = UNSUPPORTED_DATASET_KEYS.get(name, "unknown key, ignored")
            shown = f" = {value}" if isinstance(value, (str, int, float)) else ""
            by_message.setdefault(f"{name}{shown}|{explanation}", []).append(dataset.name)
    for message, names in by_message.items():
        key, _, explanation = message.rpartition("|")
        report.unsupported.append(f"{key} ({', '.join(dict.fromkeys(names))}): {explanation}.")


def import_masks(report: ImportReport, datasets: Sequence[Dataset]) -> None:
    """Masks of the loss: the alpha channel, or a folder with a mask of the same name for each image."""
    masked = [dataset for dataset in datasets if dataset.values.flag("alpha_mask") or dataset.values.text("mask_path")]
    report.set("masked_loss", bool(masked), "alpha_mask, mask_path" if masked else "")
    if not masked:
        return
    weights = [dataset.values.number("mask_min_value") for dataset in masked]
    report.set("unmasked_weight", weights[0], "mask_min_value")
    if len(set(weights)) > 1:
        report.unsupported.append(
            f"mask_min_value: all concepts have the same weight outside of masks, {weights[0]:g}."
        )
    if len(masked) < len(datasets):
        report.unsupported.append("alpha_mask, mask_path: masks and transparency are used for all concepts.")
    report.unsupported.append("alpha_mask, mask_path: ai-toolkit divides the loss by the mean of the masks.")
    for number, dataset in enumerate(datasets):
        given = dataset.values.text("mask_path")
        if not given or dataset.values.flag("alpha_mask"):
            continue
        folder = report.resolve_path(given)
        if os.path.isdir(folder):
            report.concepts[number] = dataclasses.replace(report.concepts[number], mask_data_dir=str(folder))
            report.imported.append(f"{dataset.name}, mask_path -> mask directory {folder}")
        else:
            report.unsupported.append(
                f"{dataset.name}, mask_path: the folder {folder} does not exist, so whole images are trained. Correct "
                "it, or turn off Masked loss."
            )
