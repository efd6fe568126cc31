"""Read TOML files of other trainers into plain values, with line numbers for error messages."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded

MAX_BYTES = 4 * 2**20  # such files are written by hand

# Tables that are not sections.
_VALUE_TABLES = ("optimizer_args", "network_args", "lr_scheduler_args", "datasets")

_WINDOWS_ENCODINGS = ("gb18030", "cp932", "cp949", "cp950", "cp1252", "cp1251", "cp1250")
_QUOTED = re.compile(r"[\"']([^\"'\n]+)[\"']")
_HEADER = re.compile(r"\s*(\[\[|\[)\s*([\w.\s\"'-]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*[\"']?([\w-]+)[\"']?\s*=")
BACKSLASH_HINT = r"In double quotes, \ starts an escape sequence. Use / instead, or put the text in single quotes '...'"


@dataclass(frozen=True)
class Table:
    """One table of a file: values by key, and line numbers by key."""

    values: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def location(self, key: str) -> str:
        """Prefix for messages: "line 7: ", or "" if the line is unknown."""
        return f"line {self.lines[key]}: " if key in self.lines else ""


@dataclass(frozen=True)
class TomlFile:
    path: Path
    values: dict[str, Any]
    lines: Mapping[tuple[str, int], Mapping[str, int]]  # (table name, index among tables of that name) -> key -> line

    def table(self, values: Any, name: str = "", index: int = 0) -> Table:
        """``values`` as a table, with the line numbers of the ``index``-th table called ``name``."""
        return Table(values if isinstance(values, dict) else {}, self.lines.get((name, index), {}))

    def flat(self) -> Table:
        """All values in one table, regardless of their section."""
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in self.values.items():
            is_section = isinstance(value, dict) and key not in _VALUE_TABLES
            table = self.table(value, key) if is_section else self.table({key: value})
            values |= table.values
            lines |= {name: line for name, line in table.lines.items() if name in table.values}
        return Table(values, lines)


def read_toml(path: Path) -> TomlFile:
    """Read a .toml file, or a .json file with the same contents. UserError names the invalid line and the fix."""
    text = read_text(path)
    if path.suffix.lower() == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON ({error}). Correct the file.") from error
        return TomlFile(path, values if isinstance(values, dict) else {}, {})
    return TomlFile(path, parse_toml(text, path), find_key_lines(text))


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file, with line feeds only: in UTF-8 or UTF-16, or in the encoding that the paths in it show."""
    try:
        data = read_bounded(path, max_bytes)
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").replace("\r\n", "\n")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        text = _decode_by_paths(data, path.resolve().parent)
        if text is not None:
            return text.replace("\r\n", "\n")
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8. Save the file as UTF-8.") from error


def _decode_by_paths(data: bytes, folder: Path) -> str | None:
    """Text in an encoding of Windows, as some programs save it there, if it is certain: a path in it exists that way.

    Where only comments have such characters, they are replaced.
    """
    if all(line.isascii() for line in re.sub(rb"#[^\n]*", b"", data).split(b"\n")):
        return data.decode("ascii", errors="replace")
    for encoding in _WINDOWS_ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            found = [quoted for quoted in _QUOTED.findall(text) if not quoted.isascii()]
            if any(os.path.exists(folder / quoted) for quoted in found if "\0" not in quoted):
                return text
    return None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Plain values. UserError names the invalid line and the fix."""
    try:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError
    except ImportError as error:
        raise UserError(
            f"{path}: reading TOML needs tomlkit. Run pip install tomlkit in the WebUI's Python environment."
        ) from error
    try:
        return tomlkit.parse(text).unwrap()
    except (TOMLKitError, ValueError, RecursionError) as error:
        number = getattr(error, "line", 0)
        line = text.split("\n")[number - 1] if 0 < number <= text.count("\n") + 1 else ""
        advice = f" {BACKSLASH_HINT}." if "\\" in line else ""
        location = f", line {number}" if number else ""
        reason = re.sub(r" at line \d+ col \d+$", "", str(error)) or type(error).__name__
        reason = reason.rstrip(".")
        raise UserError(
            f"{path}{location}: is not valid TOML: {reason}. {line.strip()[:80]}{advice}".rstrip()
        ) from error


def find_key_lines(text: str) -> dict[tuple[str, int], dict[str, int]]:
    """The line of each key, which parsers don't return. Keys in nested brackets are not found."""
    found: dict[tuple[str, int], dict[str, int]] = {}
    table_counts: Counter[str] = Counter()
    current = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            name = re.sub(r"[\s\"']", "", header[2])
            current = name, table_counts[name]
            table_counts[name] += 1
        elif key:
            found.setdefault(current, {}).setdefault(key[1], number)
    return found
