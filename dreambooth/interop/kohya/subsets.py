"""Import a dataset configuration of kohya's sd-scripts (dataset.toml) as concepts and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.captions.prompts import FILEWORDS
from dreambooth.interop.kohya.data_dirs import describe_missing
from dreambooth.interop.kohya.differences import find_file_differences, find_unread_captions
from dreambooth.interop.kohya.folders import list_direct_images
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.keys import (
    ALL_SUBSET_KEYS,
    BUCKET_SETTINGS,
    DATASET_KEYS,
    GENERAL_KEYS,
    RUN_SETTINGS,
    SUBSET_KEYS,
    UNSUPPORTED_DATASET_KEYS,
)
from dreambooth.interop.kohya.sizes import make_trainable, parse_resolution, usable_step
from dreambooth.interop.kohya.toml_file import Table, TomlFile
from dreambooth.interop.kohya.values import validate
from dreambooth.settings import Concept
from dreambooth.text import escape_unprintable


@dataclass(frozen=True)
class Subset:
    """One subset with inherited values. ``name`` is used in messages; ``given_keys`` are not defaults."""

    name: str
    values: Mapping[str, Any]
    given_keys: frozenset[str]
    folder: Path
    dataset: int  # index of its [[datasets]] table


def import_datasets(
    report: ImportReport, file: TomlFile, config: Mapping[str, Any], arguments: Mapping[str, Any] | None = None
) -> None:
    """Import the whole configuration. ``arguments``: training parameters, which [general] and tables below override."""
    general = validate(report, file.table(config.get("general", {}), "general"), GENERAL_KEYS, "[general]")
    for key in config.keys() - {"general", "datasets"}:
        report.unsupported.append(
            f"{file.table(config).location(key)}{key}: ignored, as it is neither [general] nor [[datasets]]."
        )
    datasets = _valid_tables(report, config.get("datasets", []), "datasets")
    defaults = {**validate(report, Table(arguments or {}), GENERAL_KEYS, "training parameter"), **general}
    subsets: list[Subset] = []
    first: Mapping[str, Any] | None = None
    number = 0
    for index, dataset in enumerate(datasets):
        table = file.table({key: value for key, value in dataset.items() if key != "subsets"}, "datasets", index)
        merged = {**defaults, **validate(report, table, GENERAL_KEYS, f"[[datasets]] {index + 1}")}
        for values in _valid_tables(report, dataset.get("subsets", []), "subsets"):
            table = file.table(values, "datasets.subsets", number)
            number += 1
            subset = _make_subset(report, table, merged, number, index)
            if subset and not _is_duplicate(report, subset, subsets):
                subsets.append(subset)
        if first is None:
            first = merged
        else:
            _warn_differences(report, first, merged, index)
    _import_dataset_settings(report, first if first is not None else defaults)
    if arguments is None and any(subset.values["conditioning_data_dir"] for subset in subsets):
        report.unsupported.append(
            "conditioning_data_dir: a dataset.toml does not say whether these are masks. Switch on Masked loss and set "
            "Unmasked weight to 0 to train as with masked_loss in sd-scripts."
        )
    if arguments is None and report.settings.get("validation_share"):
        report.unsupported.append(
            "validation_split: a dataset.toml does not set the validation interval. Set Validation frequency (steps), "
            "or no images are held out."
        )
    _import_concepts(report, subsets)


def _valid_tables(report: ImportReport, value: Any, name: str) -> list[Mapping[str, Any]]:
    rows = value if isinstance(value, list) else [value]
    invalid = [row for row in rows if not isinstance(row, Mapping)]
    if invalid:
        report.unsupported.append(f"{name} = {invalid[0]!r} is not a table. Write [[{name}]] above its keys.")
    return [row for row in rows if isinstance(row, Mapping)]


def _make_subset(
    report: ImportReport, table: Table, parent: Mapping[str, Any], number: int, dataset: int
) -> Subset | None:
    """The subset with values inherited from ``parent``; None, with a message, if it can't be used."""
    name = f"subset {number}"
    paths = ("image_dir", "metadata_file")
    invalid_paths = [key for key in paths if report.has_lost_backslashes(table, key)]
    values = validate(report, table, ALL_SUBSET_KEYS, name)
    if invalid_paths:
        return None
    if not any(values.get(key, "").strip() for key in paths):
        report.unsupported.append(f"{name}: skipped, as image_dir is missing.")
        return None
    metadata = values.get("metadata_file", "").strip()
    if metadata:
        metadata = str(report.resolve_path(metadata))
        if not Path(metadata).is_file():
            report.unsupported.append(
                f"{table.location('metadata_file')}{name}: skipped, as the file {metadata} does not exist."
            )
            return None
    folder = report.resolve_path(values.get("image_dir", "") or str(Path(metadata).parent))
    problem = describe_missing(folder)
    if not problem and not metadata and not list_direct_images(folder):
        problem = f"the folder {escape_unprintable(folder)} contains no images (subfolders are not searched)."
    if problem:
        report.unsupported.append(f"{table.location('image_dir')}{name}: skipped, as {problem}")
        return None
    defaults = {key: default for key, (_, default) in ALL_SUBSET_KEYS.items()}
    inherited = {key: value for key, value in parent.items() if key in SUBSET_KEYS}
    merged = {**defaults, **inherited, **values, "metadata_file": metadata}
    merged["keep_tokens"] = max(0, merged["keep_tokens"])  # sd-scripts treat negative values as 0
    if merged["num_repeats"] < 1:
        report.unsupported.append(
            f"{table.location('num_repeats')}{name}: skipped, as it has {merged['num_repeats']} repeats."
        )
        return None
    return Subset(name, merged, frozenset({**inherited, **values}), folder, dataset)


def _is_duplicate(report: ImportReport, subset: Subset, others: list[Subset]) -> bool:
    """Whether the dataset has a subset with the same folder and metadata file, as sd-scripts use only the first one."""
    for other in others:
        same = other.folder == subset.folder and other.values["metadata_file"] == subset.values["metadata_file"]
        if same and other.dataset == subset.dataset:
            report.unsupported.append(
                f"{subset.name}: skipped, as {other.name} already uses the folder {subset.folder}."
            )
            return True
    return False


def _warn_differences(report: ImportReport, first: Mapping[str, Any], other: Mapping[str, Any], index: int) -> None:
    for key, (_, default) in DATASET_KEYS.items():
        if key not in UNSUPPORTED_DATASET_KEYS and other.get(key, default) != first.get(key, default):
            report.unsupported.append(
                f"[[datasets]] {index + 1}: {key} = {other.get(key, default)!r}; the value of the first dataset "
                "is used for the whole run."
            )
    if index == 1:
        report.unsupported.append(
            "Several [[datasets]] are merged: images of all datasets share batches, and regularization images are "
            "repeated to match the number of all other images."
        )


def _import_dataset_settings(report: ImportReport, config: Mapping[str, Any]) -> None:
    values = {key: config.get(key, default) for key, (_, default) in DATASET_KEYS.items()}
    size = parse_resolution(report, values["resolution"])
    if size:
        report.set("resolution", size[0], f"resolution {values['resolution']}")
        report.set("resolution_height", size[1] if size[1] != size[0] else 0)
    elif values["resolution"] is None:
        report.unsupported.append("resolution is missing; the current value is kept.")
    bucketed = values["enable_bucket"]
    if bucketed:
        values["bucket_reso_steps"] = usable_step(report, values["bucket_reso_steps"])
    settings = {
        "batch_size": ("train_batch_size", values["batch_size"]),
        "enable_bucket": ("bucket_rule", "kohya" if bucketed else "one size"),
        "bucket_no_upscale": ("bucket_no_upscale", bucketed and values["bucket_no_upscale"]),
    }
    settings |= {parameter: (key, values[parameter]) for parameter, key in BUCKET_SETTINGS.items() if bucketed}
    if "validation_split" in config:
        settings["validation_split"] = ("validation_share", values["validation_split"])
    for parameter, (key, value) in settings.items():
        report.set(key, value, parameter if parameter in config else "")
    make_trainable(report)
    for key in DATASET_KEYS:
        if key in UNSUPPORTED_DATASET_KEYS and values[key] != DATASET_KEYS[key][1]:
            report.unsupported.append(f"{key} = {values[key]!r}: {UNSUPPORTED_DATASET_KEYS[key]}.")


def _import_concepts(report: ImportReport, subsets: list[Subset]) -> None:
    first_subset = next((subset for subset in subsets if not subset.values["is_reg"]), None)
    if first_subset is None:
        return
    for parameter, setting in RUN_SETTINGS.items():
        report.set(setting, first_subset.values[parameter], parameter if parameter in first_subset.given_keys else "")
    if any(subset.values["is_reg"] for subset in subsets):
        report.set("prior_loss_weight", 1.0)
        report.set("split_loss", True)
    if any(subset.values["alpha_mask"] for subset in subsets):
        report.set("masked_loss", True, "alpha_mask")
        report.set("unmasked_weight", 0.0)
        if not all(subset.values["alpha_mask"] for subset in subsets):
            report.unsupported.append(
                "alpha_mask: transparent areas are masked in all subsets, as the setting applies to the whole run."
            )
    for subset in sorted(subsets, key=lambda subset: subset.values["is_reg"]):
        concept = _make_concept(report, subset, first_subset)
        report.concepts.append(concept)
        report.imported.append(
            f"{subset.name}, {subset.folder} -> concept {len(report.concepts)}"
            f"{' (regularization images)' if concept.regularization else ''}, repeats {concept.num_repeats}"
        )
    for key in ALL_SUBSET_KEYS:
        if key in UNSUPPORTED_DATASET_KEYS:
            _warn_unsupported_key(report, key, subsets)
    given = any("caption_extension" in subset.given_keys for subset in subsets)
    report.unsupported += find_unread_captions(report.concepts, given)
    report.unsupported += find_file_differences(report.concepts)


def _warn_unsupported_key(report: ImportReport, key: str, subsets: list[Subset]) -> None:
    default = ALL_SUBSET_KEYS[key][1]
    affected = [subset for subset in subsets if subset.values[key] not in (default, None)]
    if key == "token_warmup_min" and all(not subset.values["token_warmup_step"] for subset in affected):
        return
    if affected:
        names = ", ".join(subset.name for subset in affected)
        report.unsupported.append(f"{key} = {affected[0].values[key]!r} ({names}): {UNSUPPORTED_DATASET_KEYS[key]}.")


def _caption_extension(report: ImportReport, given: str) -> str:
    extension = given.strip().lstrip("*")
    if extension and not extension.startswith("."):
        extension = f".{extension}"
    if extension != given.strip():
        message = f"caption_extension = {given!r} is read as {extension!r}; sd-scripts would find no such captions."
        if message not in report.unsupported:
            report.unsupported.append(message)
    return extension


def _make_concept(report: ImportReport, subset: Subset, first_subset: Subset) -> Concept:
    values = subset.values
    template = " ".join(filter(None, (values["caption_prefix"], FILEWORDS, values["caption_suffix"])))
    masks = values["conditioning_data_dir"].strip()
    config = {
        "instance_data_dir": str(subset.folder),
        "mask_data_dir": str(report.resolve_path(masks)) if masks else "",
        "metadata_file": values["metadata_file"],
        "subfolders": bool(values["metadata_file"]),
        "regularization": values["is_reg"],
        "num_repeats": values["num_repeats"],
        "instance_prompt": template,
        "caption_extension": _caption_extension(report, values["caption_extension"]),
        "default_caption": values["class_tokens"],
        "reading_rule": "kohya",
        "caption_lines": "random" if values["enable_wildcard"] else "first",
        "wildcards": values["enable_wildcard"],
        "keep_separator": values["keep_tokens_separator"],
        "second_separator": values["secondary_separator"],
    }
    for parameter, setting in RUN_SETTINGS.items():
        if values[parameter] != first_subset.values[parameter]:
            value = values[parameter]
            config[setting] = ("on" if value else "off") if isinstance(value, bool) else value
    return report.make_concept(config, subset.name)
