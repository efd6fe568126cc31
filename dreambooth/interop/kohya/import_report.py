"""What is taken over from another program's configuration, and what is not, as it is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.interop.kohya.toml_file import SLASHES, Table
from dreambooth.settings import CONCEPT, SETTINGS, Concept


class ImportReport:
    """Concepts and settings so far. A value that can't be ours is named, and stays out."""

    def __init__(self, beside: Path) -> None:
        """``beside``: the folder of the file, from which its relative paths are tried first."""
        self.places = [beside]
        self.concepts: list[Concept] = []
        self.settings: dict[str, Any] = {}
        self.dim_from_weights = False
        self.taken: list[str] = []
        self.without: list[str] = []

    def set(self, key: str, value: Any, said: str = "", where: str = "") -> None:
        """Take ``value`` for our setting ``key``; ``said``: what it was called, empty: nothing is said of it."""
        try:
            self.settings[key] = SETTINGS[key].parse(value)
        except ValueError as error:
            self.without.append(f"{where}{said or key}: {error}; {key} stays as it is.")
            return
        if said:
            self.taken.append(f"{said} -> {key} = {self.settings[key]!r}")

    def concept(self, values: Mapping[str, Any], name: str) -> Concept:
        """A concept of ``values``; one that is out of range is named and left at its default."""
        parsed = {}
        for key, value in values.items():
            try:
                parsed[key] = CONCEPT[key].parse(value)
            except ValueError as error:
                self.without.append(f"{name}, {key}: {error}; {CONCEPT[key].default!r} is used.")
        return Concept(**parsed)

    def path(self, text: str) -> Path:
        """A path of the file: as it stands, beside the file, or from the working directory; the first that is there."""
        given = expand_user(text.strip())
        tried = [*(place / given for place in self.places), given.absolute()]
        if os.sep == "/" and "\\" in text:
            tried += [place / text.strip().replace("\\", "/") for place in self.places]
        return next((path for path in tried if os.path.exists(path)), tried[0])

    def swallowed(self, table: Table, key: str) -> bool:
        """Whether a path lost its backslashes to TOML's escapes ("C:\\new" holds a line end); says so."""
        value = table.values.get(key)
        if not isinstance(value, str) or all(sign.isprintable() for sign in value):
            return False
        self.without.append(f"{table.where(key)}{key} = {value!r} is no path. {SLASHES}.")
        return True

    def require_something(self, path: Path) -> None:
        """UserError with all that was said, where nothing is left to train."""
        if not self.concepts:
            raise UserError.from_problems([f"{path}: there is nothing to train in it.", *self.without])
