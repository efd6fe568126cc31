"""What a path stands for: a folder of pictures, a concepts list, a configuration of another trainer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.settings import SETTINGS, Concept, parse_concepts
from dreambooth.settings.concept import MAX_BYTES


@dataclass(frozen=True)
class RecognizedInput:
    """What was found at a path, in our own terms."""

    concepts: tuple[Concept, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # to be laid over the defaults, by our keys
    taken: tuple[str, ...] = ()  # one line for each thing that was taken over: what it was, what it became
    unsupported: tuple[str, ...] = ()  # one line for each thing that has no counterpart here, and what that means
    dim_from_weights: bool = False  # type, ranks and alphas are to be those of the LoRA in lora_start

    def require_concepts(self) -> tuple[Concept, ...]:
        """The concepts; UserError that says why there is none."""
        if self.unsupported and not self.concepts:
            raise UserError.from_problems(["It brings no pictures to train.", *self.unsupported])
        return self.concepts


def recognize_input(path: Path) -> RecognizedInput:
    """Read the path as what it is. UserError names what can't be used, all of it at once.

    A .json holds a concepts list, a model's settings, or a configuration of kohya's sd-scripts; a .toml one of those;
    a folder is one of pictures, or of folders that are named as kohya's are (10_sls 1girl).
    """
    suffix = path.suffix.lower()
    if os.path.isdir(path):  # unlike Path's, it takes any name
        return _in_folder(path)
    if suffix == ".toml":
        return _in_configuration(path)
    if suffix == ".json":
        return _in_json(path)
    if os.path.isfile(path):
        raise UserError(f"{path}: is neither a folder of pictures nor a .json or .toml that names some.")
    raise UserError(f"{path}: there is no such folder or file. Correct the path.")


def _in_folder(path: Path) -> RecognizedInput:
    from dreambooth.interop.kohya.folders import find_concepts

    concepts, unsupported = find_concepts(path)
    unsupported = [*_unread(path), *unsupported]
    if not concepts:
        return RecognizedInput((Concept(instance_data_dir=str(path)),), unsupported=tuple(unsupported))
    taken = (
        f"{concept.instance_data_dir} -> concept {number}"
        f"{' of regularization pictures' if concept.regularization else ''}, repeats {concept.num_repeats}"
        for number, concept in enumerate(concepts, 1)
    )
    unsupported += [
        "A folder says nothing of resolution, buckets and the order of tags: those of the settings hold. Captions are "
        "tidied, and get the token where they lack it."
    ]
    return RecognizedInput(tuple(concepts), imported=tuple(taken), unsupported=tuple(unsupported))


def _unread(folder: Path) -> list[str]:
    """A line for each dataset.toml, or the like, right in a folder: only whoever names it asks for what it says."""
    from dreambooth.interop.kohya.toml_file import read_toml

    told = []
    for path in sorted(folder.glob("*.toml")):
        with contextlib.suppress(UserError):
            if "datasets" in read_toml(path).values:
                told.append(f"{path} was not read: name it in place of the folder to have its repeats and buckets.")
    return told


def _in_json(path: Path) -> RecognizedInput:
    values = read_json(path, MAX_BYTES)
    if isinstance(values, dict) and ("datasets" in values or "general" in values):
        return _in_configuration(path)
    of_model = isinstance(values, dict) and "concepts_list" in values
    listed = values["concepts_list"] if of_model else values
    concepts, ignored = parse_concepts(listed, base_dir=path.resolve().parent, strict=not of_model)
    settings, unsupported = {}, [f"{key} has no effect here." for key in ignored]
    for key, value in values.items() if of_model else ():
        if key in SETTINGS:
            try:
                settings[key] = SETTINGS[key].parse(value)
            except ValueError as error:
                unsupported.append(f"{key}: {error}; it stays as it is.")
    return RecognizedInput(concepts, settings, unsupported=tuple(unsupported))


def _in_configuration(path: Path) -> RecognizedInput:
    """A dataset.toml, or the parameters of a training, which may name one."""
    from dreambooth.interop.kohya.import_report import ImportReport
    from dreambooth.interop.kohya.subsets import import_datasets
    from dreambooth.interop.kohya.toml_file import read_toml
    from dreambooth.interop.kohya.training_config import import_training

    file, report = read_toml(path), ImportReport(path.resolve().parent)
    if "datasets" in file.values or file.values.keys() == {"general"}:
        import_datasets(report, file, file.values)
        report.require_concepts(path)
    else:
        import_training(report, file)
    taken, unsupported = tuple(report.imported), tuple(report.unsupported)
    return RecognizedInput(tuple(report.concepts), report.settings, taken, unsupported, report.dim_from_weights)
