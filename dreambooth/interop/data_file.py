"""Read a JSON or TOML file of another program into plain values; which of the two it is, its content says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.kohya.toml_file import TomlFile, find_key_lines, parse_toml, read_text
from dreambooth.settings.concept import MAX_BYTES


@dataclass(frozen=True)
class DataFile:
    """Plain values of a file: a dict or a list at the top level."""

    path: Path
    data: Any
    lines: Mapping[tuple[str, int], Mapping[str, int]] = field(default_factory=dict)  # see TomlFile

    def as_toml(self) -> TomlFile:
        """The same values, for functions that read sd-scripts' configurations."""
        return TomlFile(self.path, self.data if isinstance(self.data, dict) else {}, self.lines)


def read_data(path: Path) -> DataFile:
    """The values in a file, whatever its name is. UserError if it contains neither JSON nor TOML."""
    text = read_text(path, MAX_BYTES)
    start = text.lstrip()[:1]
    is_json = path.suffix.lower() == ".json" or start == "{"
    if is_json or start == "[":  # [ also starts the first table of a TOML file
        try:
            return DataFile(path, json.loads(text))
        except (ValueError, RecursionError) as error:
            if is_json:
                raise UserError(f"{path} is not valid JSON ({error}). Correct the file.") from error
    return DataFile(path, parse_toml(text, path), find_key_lines(text))
