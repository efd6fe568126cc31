"""File names of prepared images, their captions and masks: name patterns and collisions."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreambooth.captions.reading import CaptionSource
from dreambooth.images.file_kinds import CAPTION_EXTENSIONS
from dreambooth.images.listing import MASK_SUFFIXES

MAX_STEM = 200  # characters of a name without its extension: file systems allow 255 bytes or more with it

_FIELD = re.compile(r"\{(?:(?P<name>name|folder|n)(?::0*(?P<digits>[1-9]))?)\}")
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*{}]')


def pattern_problems(pattern: str) -> list[str]:
    """The problems of a name pattern, a line each."""
    literal = _FIELD.sub("", pattern)
    problems = []
    if _FORBIDDEN.search(literal):
        problems.append(
            f"rename (Names): {pattern!r} contains characters that can't be part of a file's name. Use {{name}}, "
            "{n}, {n:03} and {folder}, and letters, digits, spaces, - and _."
        )
    elif pattern.startswith((".", " ")) or pattern.endswith((".", " ")):
        problems.append(f"rename (Names): {pattern!r} begins or ends with a dot or space. Remove it.")
    elif pattern.lower().endswith(MASK_SUFFIXES):
        problems.append(f"rename (Names): {pattern!r} ends like the name of a mask. Choose another suffix.")
    if pattern and not {"name", "n"} & {field["name"] for field in _FIELD.finditer(pattern)}:
        problems.append(f"rename (Names): {pattern!r} gives all images the same name. Add {{n}} or {{name}}.")
    if len(literal) > MAX_STEM // 2:
        problems.append(
            f"rename (Names): {len(literal)} characters besides the fields are too many, at most {MAX_STEM // 2} are "
            "allowed. Shorten it."
        )
    return problems


def fill_pattern(pattern: str, path: Path, number: int) -> str:
    """The name for an image by the pattern; ``number``: its position in its folder, from 1."""

    def value(field: re.Match[str]) -> str:
        if field["name"] == "n":
            return f"{number:0{field['digits'] or 1}}"
        return path.stem if field["name"] == "name" else path.parent.name

    return _FIELD.sub(value, pattern)[:MAX_STEM].strip(". ") or path.stem


def caption_files_of(image: Path) -> list[Path]:
    """The caption files of an image."""
    found = (CaptionSource((extension,)).find(image) for extension in CAPTION_EXTENSIONS)
    return [path for path in found if path and path.is_file()]


def numbers_in_folders(images: Iterable[Path]) -> list[int]:
    """The position of each image among those of its folder, from 1."""
    counters: dict[Path, itertools.count[int]] = {}
    return [next(counters.setdefault(path.parent, itertools.count(1))) for path in images]


class UniqueNames:
    """The used names of a folder, each with the file that it is for."""

    def __init__(self, existing: Iterable[Path] = ()) -> None:
        self._used: dict[str, Path | None] = {_key(path): None for path in existing}

    def claim(self, folder: Path, stem: str, files: Sequence[tuple[Path, str]]) -> str:
        """The first free stem of NAME, NAME-2, NAME-3, ... for a group of files; reserves their names.

        ``files``: (source, suffix after the stem). Two images with one caption file may both claim its name.
        """
        for number in itertools.count(1):
            candidate = stem if number == 1 else f"{stem}-{number}"
            keys = {_key(folder / (candidate + suffix)): source for source, suffix in files}
            if all(self._used.get(key, source) == source for key, source in keys.items()):
                self._used |= keys
                return candidate
        raise AssertionError("unreachable: count is infinite")


def _key(path: Path) -> str:
    """Equal for names that some file systems treat as equal: case and Unicode normalization are ignored."""
    return unicodedata.normalize("NFC", os.fspath(path)).casefold()
