"""What prepared pictures are called, and what goes with them: captions and masks under the same name."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreambooth.captions.reading import CaptionFiles
from dreambooth.images.listing import CAPTION_EXTENSIONS, MASK_SUFFIXES

# Files beside a picture that belong to it, by their endings.
LONGEST = 200  # characters of a name without its ending: Windows and Linux take 255 bytes or more with it

_FIELD = re.compile(r"\{(?:(?P<word>name|folder|n)(?::0*(?P<digits>[1-9]))?)\}")
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"/\\|?*{}]')


def problems_of(pattern: str) -> list[str]:
    """What is wrong with a pattern for names, a line each."""
    rest = _FIELD.sub("", pattern)
    found = []
    if _FORBIDDEN.search(rest):
        found.append(
            f"rename (File names): {pattern!r} holds what can't be part of a file's name. Write {{name}}, {{n}}, {{n:03}} "
            "and {folder} for what changes, and plain letters for the rest."
        )
    elif pattern.startswith((".", " ")) or pattern.endswith((".", " ")):
        found.append(f"rename (File names): {pattern!r} begins or ends with a dot or a space, which hides or breaks files.")
    elif pattern.lower().endswith(MASK_SUFFIXES):
        found.append(f"rename (File names): {pattern!r} ends as masks do, so pictures would be taken for masks.")
    if pattern and not {"name", "n"} & {field["word"] for field in _FIELD.finditer(pattern)}:
        found.append(f"rename (File names): {pattern!r} calls all pictures the same. Add {{n}} or {{name}}.")
    if len(rest) > LONGEST // 2:
        found.append(f"rename (File names): {len(rest)} characters beside the fields are too many. Take a shorter one.")
    return found


def filled_in(pattern: str, path: Path, number: int) -> str:
    """The pattern's name for a picture, the ``number``-th of its folder (from 1)."""

    def value(field: re.Match[str]) -> str:
        if field["word"] == "n":
            return f"{number:0{field['digits'] or 1}}"
        return path.stem if field["word"] == "name" else path.parent.name

    return _FIELD.sub(value, pattern)[:LONGEST].strip(". ") or path.stem


def captions_of(picture: Path) -> list[Path]:
    """The caption files beside a picture."""
    beside = (CaptionFiles((ending,)).file_of(picture) for ending in CAPTION_EXTENSIONS)
    return [path for path in beside if path and path.is_file()]


def numbers_in_folders(pictures: Iterable[Path]) -> list[int]:
    """For each picture its place among those of its folder, from 1."""
    counters: dict[Path, itertools.count[int]] = {}
    return [next(counters.setdefault(path.parent, itertools.count(1))) for path in pictures]


class Names:
    """Names that are taken, each by the file that it holds."""

    def __init__(self, taken: Iterable[Path] = ()) -> None:
        self._taken: dict[str, Path | None] = {_key(path): None for path in taken}

    def claim(self, folder: Path, stem: str, files: Sequence[tuple[Path, str]]) -> str:
        """A stem under which these files are free in the folder, and from now on taken: NAME, else NAME-2, NAME-3, ...

        ``files``: (source, what stands behind the stem). Two pictures with one caption name share that file.
        """
        for number in itertools.count(1):
            tried = stem if number == 1 else f"{stem}-{number}"
            wanted = {_key(folder / (tried + ending)): source for source, ending in files}
            if all(self._taken.get(key, source) == source for key, source in wanted.items()):
                self._taken |= wanted
                return tried
        raise AssertionError("numbers don't end")


def _key(path: Path) -> str:
    """Equal for names that some file system takes for the same: without case, and whatever accents are made of."""
    return unicodedata.normalize("NFC", os.fspath(path)).casefold()
