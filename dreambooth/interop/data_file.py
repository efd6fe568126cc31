"""Read a JSON, TOML or YAML file of another program into plain values; which of them it is, its content says."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.kohya.toml_file import TomlFile, find_key_lines, parse_toml, read_text
from dreambooth.interop.script_text import read_script
from dreambooth.interop.yaml_file import parse_yaml
from dreambooth.json_text import parse_json
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
    """The values in a file, whatever its name is. UserError if it contains neither JSON nor TOML nor YAML."""
    text = read_text(path, MAX_BYTES)
    start = text.lstrip()[:1]
    is_json = path.suffix.lower() == ".json" or start == "{"
    if is_json or start == "[":  # [ also starts the first table of a TOML file
        try:
            return DataFile(path, parse_json(text, str(path), by_hand=True))
        except UserError:
            if is_json:
                raise
    if path.suffix.lower() in (".yaml", ".yml"):
        return DataFile(path, parse_yaml(text, path))
    try:
        return DataFile(path, parse_toml(text, path), find_key_lines(text))
    except UserError:
        data = None
        if path.suffix.lower() != ".toml":
            data = read_script(text) or _parse_as_yaml(text, path)
        if data is None:
            raise
        return DataFile(path, data)


def _parse_as_yaml(text: str, path: Path) -> Any:
    """The values in a file without a telling name, if they are a table or a list; any text is a value in YAML."""
    with contextlib.suppress(UserError):
        data = parse_yaml(text, path)
        return data if isinstance(data, (dict, list)) else None
    return None
