"""TOML files of other programs, as people write them: read into plain values, and every complaint with its line."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded

LARGEST = 4 * 2**20  # bytes; such files are written by hand

_HEADER = re.compile(r"\s*(\[\[|\[)\s*([\w.\s\"'-]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*[\"']?([\w-]+)[\"']?\s*=")
SLASHES = (
    r"In double quotes \ has a meaning of its own: write / in its place, or put the text between single quotes '...'"
)


@dataclass(frozen=True)
class Table:
    """One table of a file: its values, and where each of them stands."""

    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """ "line 7: ", or "" where that isn't known."""
        return f"line {self.lines[key]}: " if key in self.lines else ""


@dataclass(frozen=True)
class TomlFile:
    path: Path
    values: dict[str, Any]
    lines: Mapping[tuple[str, int], Mapping[str, int]]  # of (table's name, which of that name): key -> line

    def table(self, values: Any, name: str = "", number: int = 0) -> Table:
        """``values`` of this file, with the lines of the ``number``-th table called ``name``."""
        return Table(values if isinstance(values, dict) else {}, self.lines.get((name, number), {}))

    def flat(self) -> Table:
        """All values in one table, whatever section they stand in."""
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in self.values.items():
            table = self.table(value, key) if isinstance(value, dict) else self.table({key: value})
            values |= table.values
            lines |= {name: line for name, line in table.lines.items() if name in table.values}
        return Table(values, lines)


def read_toml(path: Path) -> TomlFile:
    """Read a .toml (or .json of the same contents). UserError names the line that breaks it, and the fix."""
    text = _text(path)
    if path.suffix.lower() == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: is not JSON: {error}.") from error
        return TomlFile(path, values if isinstance(values, dict) else {}, {})
    return TomlFile(path, _parsed(text, path), _lines(text))


def _text(path: Path) -> str:
    try:
        data = read_bounded(path, LARGEST)
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").replace("\r\n", "\n")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8. Save the file as UTF-8.") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError
    except ImportError as error:
        raise UserError(f"{path}: reading TOML needs tomlkit: pip install tomlkit, into the WebUI's Python.") from error
    try:
        return tomlkit.parse(text).unwrap()
    except (TOMLKitError, ValueError, RecursionError) as error:
        number = getattr(error, "line", 0)
        line = text.split("\n")[number - 1] if 0 < number <= text.count("\n") + 1 else ""
        advice = f" {SLASHES}." if "\\" in line else ""
        where = f", line {number}" if number else ""
        said = re.sub(r" at line \d+ col \d+$", "", str(error)) or type(error).__name__
        said = said.rstrip(".")
        raise UserError(f"{path}{where}: is not TOML: {said}. {line.strip()[:80]}{advice}".rstrip()) from error


def _lines(text: str) -> dict[tuple[str, int], dict[str, int]]:
    """Where each key stands. Parsers don't tell; what stands in nested brackets is not found."""
    found: dict[tuple[str, int], dict[str, int]] = {}
    seen: Counter[str] = Counter()
    here = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            name = re.sub(r"[\s\"']", "", header[2])
            here = name, seen[name]
            seen[name] += 1
        elif key:
            found.setdefault(here, {}).setdefault(key[1], number)
    return found
