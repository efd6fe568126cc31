"""The result of importing a configuration of another trainer: concepts, settings and messages."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.kohya.toml_file import BACKSLASH_HINT, Table
from dreambooth.paths import clean_path
from dreambooth.settings import CONCEPT, SETTINGS, Concept
from dreambooth.settings.names import clean_name


class ImportReport:
    """Collects concepts, settings and messages during an import. Invalid values are reported and left out."""

    def __init__(self, base_dir: Path) -> None:
        """``base_dir``: folder of the configuration file, where its relative paths are searched first."""
        self.search_dirs = [base_dir]
        self.concepts: list[Concept] = []
        self.settings: dict[str, Any] = {}
        self.dim_from_weights = False
        self.imported: list[str] = []
        self.unsupported: list[str] = []
        self.image_problems: list[str] = []  # why none of the images that the file names can be used

    def set(self, key: str, value: Any, source: str = "", location: str = "") -> None:
        """Set the setting ``key``. ``source``: name of the imported parameter; without one, no message is added."""
        try:
            self.settings[key] = SETTINGS[key].parse(value)
        except ValueError as error:
            if SETTINGS[key].file_name and isinstance(value, str) and (name := clean_name(value)):
                self.settings[key] = name
                self.imported.append(f"{location}{source or key}: {error}. {name!r} is used instead.")
                return
            self.unsupported.append(f"{location}{source or key}: {error}; the current value of {key} is kept.")
            return
        if source:
            self.imported.append(f"{source} -> {key} = {self.settings[key]!r}")

    def make_concept(self, values: Mapping[str, Any], name: str) -> Concept:
        """A concept with these values; invalid ones are reported and replaced by their default."""
        parsed = {}
        for key, value in values.items():
            try:
                parsed[key] = CONCEPT[key].parse(value)
            except ValueError as error:
                self.unsupported.append(f"{name}, {key}: {error}; {CONCEPT[key].default!r} is used.")
        return Concept(**parsed)

    def resolve_path(self, text: str) -> Path:
        """The first existing path: absolute, relative to the configuration file, or to the working directory."""
        tried = [clean_path(text, place) for place in (*self.search_dirs, Path.cwd())]
        return next((path for path in tried if os.path.exists(path)), tried[0])

    def has_lost_backslashes(self, table: Table, key: str) -> bool:
        """Whether TOML took backslashes of a path as escapes ("C:\\new" contains a line break). Reported if so."""
        value = table.values.get(key)
        if not isinstance(value, str) or value.isprintable():
            return False
        self.unsupported.append(f"{table.location(key)}{key} = {value!r} is not a valid path. {BACKSLASH_HINT}.")
        return True

    def find_missing_images(self, path: Path, parameters: Collection[str]) -> None:
        """Note why there are no images, if the file names some. ``parameters``: those that name them."""
        if self.concepts:
            return
        names = ", ".join(sorted(parameters))
        fix = f" Correct {names}, or remove it to import the other parameters alone." if names else ""
        self.image_problems = [f"{path}: there are no images to train, so nothing was imported.{fix}"]
        self.image_problems += self.unsupported

    def require_concepts(self, path: Path) -> None:
        """UserError with all messages if nothing is left to train."""
        self.find_missing_images(path, ())
        if self.image_problems:
            raise UserError.from_problems(self.image_problems)
