"""Recognize and read an input path: a folder of images, a concepts list, or a configuration of another trainer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, Concept, parse_concepts
from dreambooth.settings.legacy import upgrade


@dataclass(frozen=True)
class RecognizedInput:
    """Concepts and settings read from a path, and messages about the import."""

    concepts: tuple[Concept, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # values that replace the current settings, by key
    imported: tuple[str, ...] = ()  # messages: each imported key, and the setting that it became
    unsupported: tuple[str, ...] = ()  # messages: each key or file that is not supported, and the effect
    dim_from_weights: bool = False  # read type, ranks and alphas from the LoRA in lora_start
    image_problems: tuple[str, ...] = ()  # why none of the images that a configuration names can be used

    def require_concepts(self) -> tuple[Concept, ...]:
        """The concepts. UserError with the reasons if there are none."""
        if self.image_problems:
            raise UserError.from_problems(self.image_problems)
        if self.unsupported and not self.concepts:
            raise UserError.from_problems(["The import contains no images to train.", *self.unsupported])
        return self.concepts


def recognize_input(path: Path) -> RecognizedInput:
    """Read the path according to its kind. UserError lists all problems at once.

    A folder holds images, or folders named in kohya's way (10_sls 1girl). What a file holds is recognized by its
    content: a concepts list, a model's settings, or a configuration of one of the programs in programs.py.
    """
    if os.path.isdir(path):  # Path.is_dir raises for some invalid names
        return _read_folder(path)
    if os.path.isfile(path):
        return _read_file(path)
    raise UserError(f"{path}: there is no such folder or file. Correct the path.")


def _read_folder(path: Path) -> RecognizedInput:
    from dreambooth.interop.kohya.folders import find_concepts

    concepts, unsupported = find_concepts(path)
    unsupported = [*_find_ignored_toml_files(path), *unsupported]
    if not concepts:
        return RecognizedInput((Concept(instance_data_dir=str(path)),), unsupported=tuple(unsupported))
    imported = (
        f"{concept.instance_data_dir} -> concept {number}"
        f"{' (regularization images)' if concept.regularization else ''}, repeats {concept.num_repeats}"
        for number, concept in enumerate(concepts, 1)
    )
    unsupported += [
        "Folder names do not set resolution, buckets and tag order, so the current settings are used. The name is the "
        "caption of images that have none; other captions stay as they are. Set an instance token to add it to them."
    ]
    return RecognizedInput(tuple(concepts), imported=tuple(imported), unsupported=tuple(unsupported))


def _find_ignored_toml_files(folder: Path) -> list[str]:
    """A message for each dataset configuration in the folder, which is only read if its own path is given."""
    from dreambooth.interop.kohya.toml_file import read_toml

    messages = []
    for path in sorted(folder.glob("*.toml")):
        with contextlib.suppress(UserError):
            if "datasets" in read_toml(path).values:
                messages.append(
                    f"{path} was not read. Import this file instead of the folder to use its repeats and buckets."
                )
    return messages


def _read_file(path: Path) -> RecognizedInput:
    from dreambooth.interop.data_file import read_data
    from dreambooth.interop.kohya.import_report import ImportReport
    from dreambooth.interop.programs import recognize_file

    file = read_data(path)
    if _is_own_file(file.data):
        return _read_own_file(path, file.data)
    program, part = recognize_file(file)
    report = ImportReport(path.resolve().parent)
    program.import_file(report, part)
    return RecognizedInput(
        concepts=tuple(report.concepts),
        settings=report.settings,
        imported=tuple(report.imported),
        unsupported=tuple(report.unsupported),
        dim_from_weights=report.dim_from_weights,
        image_problems=tuple(report.image_problems),
    )


def _is_own_file(data: Any) -> bool:
    """Whether these are concepts, or the settings of a model, of this program or of the extension before it."""
    if isinstance(data, dict):
        return "concepts_list" in data
    rows = data if isinstance(data, list) else []
    return data == [] or any(isinstance(row, dict) and "instance_data_dir" in row for row in rows)


def _read_own_file(path: Path, values: Any) -> RecognizedInput:
    is_model_config = isinstance(values, dict)
    unsupported: list[str] = []
    if is_model_config:
        values, unsupported = upgrade(dict(values))
    rows = values["concepts_list"] if is_model_config else values
    concepts, notices = parse_concepts(rows, base_dir=path.resolve().parent, strict=not is_model_config)
    unsupported += notices
    settings = {}
    for key, value in values.items() if is_model_config else ():
        if key in SETTINGS:
            try:
                settings[key] = SETTINGS[key].parse(value)
            except ValueError as error:
                unsupported.append(f"{key}: {error}; the current value is kept.")
    return RecognizedInput(concepts, settings, unsupported=tuple(unsupported))
