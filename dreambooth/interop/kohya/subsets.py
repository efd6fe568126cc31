"""A dataset configuration of kohya's sd-scripts ([[datasets]], [[datasets.subsets]]) as concepts and settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.captions.prompts import FILEWORDS
from dreambooth.interop.kohya.differences import said_of_files
from dreambooth.interop.kohya.folders import right_in
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.keys import (
    BUCKETS,
    EVERYWHERE,
    IN_SUBSETS,
    OF_DATASETS,
    OF_ONE_SUBSET,
    OF_SUBSETS,
    OF_THE_RUN,
    WITHOUT,
)
from dreambooth.interop.kohya.toml_file import Table, TomlFile
from dreambooth.settings import Concept, nearest


@dataclass(frozen=True)
class Subset:
    """One subset with everything that it inherits. ``name`` says which one it is, ``said`` what the file says."""

    name: str
    values: Mapping[str, Any]
    said: frozenset[str]
    folder: Path
    dataset: int


def take_datasets(
    takeover: ImportReport, file: TomlFile, config: Mapping[str, Any], arguments: Mapping[str, Any] | None = None
) -> None:
    """All of a configuration. ``arguments``: what the training's own parameters say, beneath [general]."""
    general = _checked(takeover, file.table(config.get("general", {}), "general"), EVERYWHERE, "[general]")
    for key in config.keys() - {"general", "datasets"}:
        takeover.without.append(f"{file.table(config).where(key)}{key}: is neither [general] nor [[datasets]].")
    datasets = _tables(takeover, config.get("datasets", []), "datasets")
    beneath = {**_checked(takeover, Table(arguments or {}), EVERYWHERE, "the training's"), **general}
    subsets: list[Subset] = []
    first: Mapping[str, Any] | None = None
    number = 0
    for place, dataset in enumerate(datasets):
        rest = {key: value for key, value in dataset.items() if key != "subsets"}
        own = _checked(takeover, file.table(rest, "datasets", place), EVERYWHERE, f"[[datasets]] {place + 1}")
        whole = {**beneath, **own}
        for each in _tables(takeover, dataset.get("subsets", []), "subsets"):
            table = file.table(each, "datasets.subsets", number)
            number += 1
            subset = _subset(takeover, table, whole, number, place)
            if subset and not _known(takeover, subset, subsets):
                subsets.append(subset)
        if first is None:
            first = whole
        else:
            _say_differences(takeover, first, whole, place)
    _take_dataset(takeover, first if first is not None else beneath)
    if arguments is None and takeover.settings.get("validation_share"):
        takeover.without.append(
            "validation_split: how often the loss is validated is no part of a dataset.toml; choose Validation "
            "frequency, or nothing is held out."
        )
    _take_concepts(takeover, subsets)


def _tables(takeover: ImportReport, value: Any, name: str) -> list[Mapping[str, Any]]:
    rows = value if isinstance(value, list) else [value]
    odd = [row for row in rows if not isinstance(row, Mapping)]
    if odd:
        takeover.without.append(f"{name} = {odd[0]!r} is no table: write [[{name}]] above its keys.")
    return [row for row in rows if isinstance(row, Mapping)]


def _checked(takeover: ImportReport, table: Table, known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values that are what they should be; the others are named."""
    fine = {}
    for key, value in table.values.items():
        if key not in known:
            why = f"sd-scripts know no such key{nearest(key, known)}"
            if key in OF_ONE_SUBSET or key in OF_DATASETS:
                why = f"belongs in {'[[datasets.subsets]]' if key in OF_ONE_SUBSET else '[[datasets]]'}"
            takeover.without.append(f"{table.where(key)}{name} {key}: {why}; it is left out.")
            continue
        kinds, _ = known[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            takeover.without.append(f"{table.where(key)}{name} {key} = {value!r} is not {wanted}; it is left out.")
        elif isinstance(value, float) and not math.isfinite(value):
            takeover.without.append(f"{table.where(key)}{name} {key} = {value!r} is no number; it is left out.")
        else:
            fine[key] = value
    return fine


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: 'a text in "quotes"',
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def _subset(takeover: ImportReport, table: Table, above: Mapping[str, Any], number: int, dataset: int) -> Subset | None:
    """The subset with what it inherits, or None and a word on why not."""
    name = f"subset {number}"
    paths = ("image_dir", "metadata_file")
    spoilt = [key for key in paths if takeover.swallowed(table, key)]
    values = _checked(takeover, table, IN_SUBSETS, name)
    if spoilt:
        return None
    if not any(values.get(key, "").strip() for key in paths):
        takeover.without.append(f"{name}: image_dir is missing, so it is left out.")
        return None
    metadata = values.get("metadata_file", "").strip()
    if metadata:
        metadata = str(takeover.path(metadata))
        if not Path(metadata).is_file():
            takeover.without.append(
                f"{table.where('metadata_file')}{name}: there is no file {metadata}, so it is left out."
            )
            return None
    folder = takeover.path(values.get("image_dir", "") or str(Path(metadata).parent))
    missing = "" if folder.is_dir() else "there is no folder"
    if not missing and not metadata and not right_in(folder):
        missing = "no picture is right in"
    if missing:
        takeover.without.append(f"{table.where('image_dir')}{name}: {missing} {folder}, so it is left out.")
        return None
    defaults = {key: default for key, (_, default) in IN_SUBSETS.items()}
    inherited = {key: value for key, value in above.items() if key in OF_SUBSETS}
    whole = {**defaults, **inherited, **values, "metadata_file": metadata}
    whole["keep_tokens"] = max(0, whole["keep_tokens"])  # less than none means none there
    if whole["num_repeats"] < 1:
        takeover.without.append(f"{table.where('num_repeats')}{name}: {whole['num_repeats']} repeats leave it out.")
        return None
    return Subset(name, whole, frozenset({**inherited, **values}), folder, dataset)


def _known(takeover: ImportReport, subset: Subset, others: list[Subset]) -> bool:
    """A folder counts once in each dataset."""
    for other in others:
        same = other.folder == subset.folder and other.values["metadata_file"] == subset.values["metadata_file"]
        if same and other.dataset == subset.dataset:
            takeover.without.append(f"{subset.name}: {subset.folder} is {other.name} already, so it is left out.")
            return True
    return False


def _say_differences(takeover: ImportReport, first: Mapping[str, Any], other: Mapping[str, Any], place: int) -> None:
    for key, (_, default) in OF_DATASETS.items():
        if key not in WITHOUT and other.get(key, default) != first.get(key, default):
            takeover.without.append(
                f"[[datasets]] {place + 1}: {key} = {other.get(key, default)!r}; a run has one, the first dataset's."
            )
    if place == 1:
        takeover.without.append(
            "Several [[datasets]]: here they are one, so pictures of all of them share batches, and regularization "
            "pictures are shown as often as the others of all together."
        )


def _take_dataset(takeover: ImportReport, given: Mapping[str, Any]) -> None:
    values = {key: given.get(key, default) for key, (_, default) in OF_DATASETS.items()}
    size = resolution_of(takeover, values["resolution"])
    if size:
        takeover.set("resolution", size[0], f"resolution {values['resolution']}")
        takeover.set("resolution_height", size[1] if size[1] != size[0] else 0)
    elif values["resolution"] is None:
        takeover.without.append("resolution is not said; that of the model's settings stays.")
    bucketed = values["enable_bucket"]
    ours = {
        "batch_size": ("train_batch_size", values["batch_size"]),
        "enable_bucket": ("bucket_rule", "kohya" if bucketed else "one size"),
        "bucket_no_upscale": ("bucket_no_upscale", bucketed and values["bucket_no_upscale"]),
    }
    ours |= {theirs: (key, values[theirs]) for theirs, key in BUCKETS.items() if bucketed}
    if "validation_split" in given:
        ours["validation_split"] = ("validation_share", values["validation_split"])
    for theirs, (key, value) in ours.items():
        takeover.set(key, value, theirs if theirs in given else "")
    for key in OF_DATASETS:
        if key in WITHOUT and values[key] != OF_DATASETS[key][1]:
            takeover.without.append(f"{key} = {values[key]!r}: {WITHOUT[key]}.")


def resolution_of(takeover: ImportReport, value: Any) -> tuple[int, int] | None:
    """Width and height of 512, [512, 768], "512" or "512,768"; None and a word for anything else."""
    if value is None:
        return None
    sides = value if isinstance(value, list) else str(value).split(",")
    try:
        numbers = [int(str(side).strip()) for side in sides]
        width, height = numbers if len(numbers) == 2 else numbers * 2
    except ValueError:
        takeover.without.append(
            f"resolution = {value!r} is neither a number nor a pair; that of the model's settings stays."
        )
        return None
    return width, height


def _take_concepts(takeover: ImportReport, subsets: list[Subset]) -> None:
    of_run = next((subset for subset in subsets if not subset.values["is_reg"]), None)
    if of_run is None:
        return
    for theirs, ours in OF_THE_RUN.items():
        takeover.set(ours, of_run.values[theirs], theirs if theirs in of_run.said else "")
    if any(subset.values["is_reg"] for subset in subsets):
        takeover.set("prior_loss_weight", 1.0)
        takeover.set("split_loss", True)
    if any(subset.values["alpha_mask"] for subset in subsets):
        takeover.set("masked_loss", True, "alpha_mask")
        takeover.set("unmasked_weight", 0.0)
        if not all(subset.values["alpha_mask"] for subset in subsets):
            takeover.without.append("alpha_mask: what is transparent counts for nothing in all subsets, or in none.")
    for subset in sorted(subsets, key=lambda subset: subset.values["is_reg"]):
        concept = _concept(takeover, subset, of_run)
        takeover.concepts.append(concept)
        takeover.taken.append(
            f"{subset.name}, {subset.folder} -> concept {len(takeover.concepts)}"
            f"{' of regularization pictures' if concept.regularization else ''}, repeats {concept.num_repeats}"
        )
    for key in IN_SUBSETS:
        if key in WITHOUT:
            _say_without(takeover, key, subsets)
    takeover.without += said_of_files(takeover.concepts)


def _say_without(takeover: ImportReport, key: str, subsets: list[Subset]) -> None:
    default = IN_SUBSETS[key][1]
    having = [subset for subset in subsets if subset.values[key] not in (default, None)]
    if key == "token_warmup_min" and all(not subset.values["token_warmup_step"] for subset in having):
        return
    if having:
        names = ", ".join(subset.name for subset in having)
        takeover.without.append(f"{key} = {having[0].values[key]!r} ({names}): {WITHOUT[key]}.")


def _concept(takeover: ImportReport, subset: Subset, of_run: Subset) -> Concept:
    values = subset.values
    template = " ".join(filter(None, (values["caption_prefix"], FILEWORDS, values["caption_suffix"])))
    given = {
        "instance_data_dir": str(subset.folder),
        "metadata_file": values["metadata_file"],
        "subfolders": bool(values["metadata_file"]),
        "regularization": values["is_reg"],
        "num_repeats": values["num_repeats"],
        "instance_prompt": template,
        "caption_extension": values["caption_extension"],
        "default_caption": values["class_tokens"],
        "reading_rule": "kohya",
        "caption_lines": "random" if values["enable_wildcard"] else "first",
        "wildcards": values["enable_wildcard"],
        "keep_separator": values["keep_tokens_separator"],
        "second_separator": values["secondary_separator"],
    }
    for theirs, ours in OF_THE_RUN.items():
        if values[theirs] != of_run.values[theirs]:
            value = values[theirs]
            given[ours] = ("on" if value else "off") if isinstance(value, bool) else value
    return takeover.concept(given, subset.name)
