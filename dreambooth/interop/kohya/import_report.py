"""What is taken over from another program's configuration, and what is not, as it is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.interop.kohya.toml_file import BACKSLASH_HINT, Table
from dreambooth.settings import CONCEPT, SETTINGS, Concept


class ImportReport:
    """Concepts and settings so far. A value that can't be ours is named, and stays out."""

    def __init__(self, beside: Path) -> None:
        """``beside``: the folder of the file, from which its relative paths are tried first."""
        self.search_dirs = [beside]
        self.concepts: list[Concept] = []
        self.settings: dict[str, Any] = {}
        self.dim_from_weights = False
        self.imported: list[str] = []
        self.unsupported: list[str] = []

    def set(self, key: str, value: Any, said: str = "", location: str = "") -> None:
        """Take ``value`` for our setting ``key``; ``said``: what it was called, empty: nothing is said of it."""
        try:
            self.settings[key] = SETTINGS[key].parse(value)
        except ValueError as error:
            self.unsupported.append(f"{location}{said or key}: {error}; {key} stays as it is.")
            return
        if said:
            self.imported.append(f"{said} -> {key} = {self.settings[key]!r}")

    def make_concept(self, values: Mapping[str, Any], name: str) -> Concept:
        """A concept of ``values``; one that is out of range is named and left at its default."""
        parsed = {}
        for key, value in values.items():
            try:
                parsed[key] = CONCEPT[key].parse(value)
            except ValueError as error:
                self.unsupported.append(f"{name}, {key}: {error}; {CONCEPT[key].default!r} is used.")
        return Concept(**parsed)

    def resolve_path(self, text: str) -> Path:
        """A path of the file: as it stands, beside the file, or from the working directory; the first that is there."""
        given = expand_user(text.strip())
        tried = [*(place / given for place in self.search_dirs), given.absolute()]
        if os.sep == "/" and "\\" in text:
            tried += [place / text.strip().replace("\\", "/") for place in self.search_dirs]
        return next((path for path in tried if os.path.exists(path)), tried[0])

    def lost_backslashes(self, table: Table, key: str) -> bool:
        """Whether a path lost its backslashes to TOML's escapes ("C:\\new" holds a line end); says so."""
        value = table.values.get(key)
        if not isinstance(value, str) or all(sign.isprintable() for sign in value):
            return False
        self.unsupported.append(f"{table.location(key)}{key} = {value!r} is no path. {BACKSLASH_HINT}.")
        return True

    def require_concepts(self, path: Path) -> None:
        """UserError with all that was said, where nothing is left to train."""
        if not self.concepts:
            raise UserError.from_problems([f"{path}: there is nothing to train in it.", *self.unsupported])
