"""Recognize and read an input path: a folder of images, a concepts list, or a configuration of another trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.data_file import DataFile
from dreambooth.json_text import parse_json
from dreambooth.paths import clean_path
from dreambooth.settings import SETTINGS, Concept, parse_concepts
from dreambooth.settings.concept import AS_THE_RUN
from dreambooth.settings.legacy import REMOVED, upgrade
from dreambooth.settings.model_folder import MODEL_KEYS, take_concepts
from dreambooth.settings.old_extension import OLD_KEYS, is_old_file


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
    if os.path.exists(path):
        return _read_file(path)
    raise UserError(f"{path}: there is no such folder or file. Correct the path.")


def recognize_concepts(source: str | Path) -> RecognizedInput:
    """As :func:`recognize_input`, where only concepts are asked for; also JSON text. UserError if there are none.

    What the source sets for the whole run is not used, except where it decides how captions and images vary: that
    becomes a part of the concepts. The rest is reported.
    """
    text = str(source).strip()
    if text.startswith(("[", "{")) and not os.path.lexists(text):
        found = _read_values(DataFile(Path("The pasted text"), parse_json(text, "The pasted text", by_hand=True)), None)
    else:
        found = recognize_input(clean_path(source))
    concepts = found.require_concepts()
    if not concepts:
        raise UserError(f"{text[:200]} contains no concepts. Choose a folder of images, or a file that lists some.")
    unused = [key for key in found.settings if key not in _VARIATION]
    unsupported = found.unsupported
    if unused:
        names = ", ".join(unused[:_SHOWN_SETTINGS])
        more = f" and {len(unused) - _SHOWN_SETTINGS} more" if len(unused) > _SHOWN_SETTINGS else ""
        unsupported += (f"Only the concepts are used, not the settings ({names}{more}). Import the file to use both.",)
    return dataclasses.replace(
        found,
        concepts=tuple(_with_variation(concept, found.settings) for concept in concepts),
        settings={},
        unsupported=unsupported,
    )


# Settings of a run that concepts can override, and the value of a concept that does not.
_VARIATION: dict[str, Any] = {
    "shuffle_tags": AS_THE_RUN, "hflip": AS_THE_RUN, "keep_tokens": -1, "tag_dropout": -1, "caption_dropout": -1,
}  # fmt: skip
_SHOWN_SETTINGS = 4


def _with_variation(concept: Concept, settings: Mapping[str, Any]) -> Concept:
    """The concept with the run's values where it has none of its own."""
    changed = {}
    for key, as_the_run in _VARIATION.items():
        if key in settings and getattr(concept, key) == as_the_run:
            value = settings[key]
            changed[key] = ("on" if value else "off") if isinstance(value, bool) else value
    return dataclasses.replace(concept, **changed)


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
    from dreambooth.interop.metadata_input import SUFFIXES, read_metadata
    from dreambooth.interop.unknown_files import refuse_binary

    base_dir = path.resolve().parent
    if path.suffix.lower() in SUFFIXES:
        return _read_values(read_metadata(path), base_dir)
    refuse_binary(path)
    return _read_values(read_data(path), base_dir)


def _read_values(file: DataFile, base_dir: Path | None) -> RecognizedInput:
    """``base_dir``: the folder that relative paths refer to; None for text, whose paths stay as they are."""
    from dreambooth.interop.kohya.import_report import ImportReport
    from dreambooth.interop.programs import recognize_file

    if _is_own_file(file.data):
        return _read_own_file(file.data, base_dir)
    program, part = recognize_file(file)
    report = ImportReport(base_dir or Path.cwd())
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
        return not data.keys().isdisjoint(("concepts_list", "instance_data_dir"))
    rows = data if isinstance(data, list) else []
    return data == [] or any(isinstance(row, dict) and "instance_data_dir" in row for row in rows)


def _read_own_file(values: Any, base_dir: Path | None) -> RecognizedInput:
    if not (isinstance(values, dict) and values.keys() & {"concepts_list", "learning_rate"}):
        concepts, notices = parse_concepts(values, base_dir)
        return RecognizedInput(concepts, unsupported=tuple(notices))
    is_old = is_old_file(values)
    values, changes = upgrade(dict(values))
    concepts, notices = take_concepts(values, is_old, base_dir)
    unsupported, settings = [*(text for text in changes if "no effect" in text), *notices], {}
    for key, value in values.items():
        if key in SETTINGS:
            try:
                settings[key] = SETTINGS[key].parse(value)
            except ValueError as error:
                unsupported.append(f"{key}: {error}; the current value is kept.")
        elif key not in OLD_KEYS and key not in REMOVED and key not in MODEL_KEYS:
            unsupported.append(f"{key} has no effect: there is no such setting.")
    imported = tuple(text for text in changes if "no effect" not in text)
    return RecognizedInput(concepts, settings, imported=imported, unsupported=tuple(unsupported))
