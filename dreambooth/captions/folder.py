"""The captions of a folder as they lie on disk, for editing: what training reads, and the very bytes it is read from.

A caption of several lines is edited line by line; its lines stay lines.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dreambooth.captions.reading import CaptionFiles, bytes_of, decode_text, read_caption
from dreambooth.captions.tags import tags_of
from dreambooth.errors import UserError
from dreambooth.images.file_reader import read_all
from dreambooth.images.listing import find_images, masks_of
from dreambooth.types import ProgressCallback

_BRACES = re.compile(r"\{[^{}]*\}")
_LINE_END = re.compile(r"(\r\n|\r|\n)")


@dataclass(frozen=True)
class CaptionFile:
    """One caption, and the pictures that it is for: more than one where they differ only in their ending."""

    path: Path  # of the file, which need not exist yet
    pictures: tuple[Path, ...]
    text: str  # with its line ends; of pictures without a file, what training reads from their name
    data: bytes | None = None  # what the file holds; None: there is none

    @cached_property
    def tags(self) -> dict[str, None]:
        """Its different tags, in their order."""
        return dict.fromkeys(tag for line in lines_of(self.text) for tag in parts_of(line))


@dataclass(frozen=True)
class Captions:
    """All captions of a folder, in the order of its pictures."""

    folder: Path
    files: tuple[CaptionFile, ...]
    problems: tuple[str, ...] = ()  # captions that can't be read, which no edit touches

    @property
    def pictures(self) -> int:
        return sum(len(file.pictures) for file in self.files)

    def counts(self) -> dict[str, int]:
        """In how many pictures each tag stands, the most frequent first."""
        counted: Counter[str] = Counter()
        for file in self.files:
            for tag in file.tags:
                counted[tag] += len(file.pictures)
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0].casefold(), item[0])))


def read_captions(folder: Path, kept: CaptionFiles, progress: ProgressCallback | None = None) -> Captions:
    """The captions of all pictures in the folder and below it. UserError when the folder can't be read."""
    pictures = find_images(folder)
    masks = set(masks_of(pictures).values())
    beside: dict[Path, list[Path]] = defaultdict(list)
    for picture in pictures:
        if picture not in masks:
            beside[picture.with_suffix("")].append(picture)
    together = [tuple(named) for named in beside.values()]

    def done(number: int) -> None:
        if progress and number % 100 == 0:
            progress(number, len(together), "captions")

    read = read_all(together, lambda named, _: _read(named, kept), done, path_of=lambda named: named[0])
    found = [one for one in read if isinstance(one, CaptionFile)]
    problems = [problem for one in read if isinstance(one, UserError) for problem in one.problems]
    return Captions(Path(folder), tuple(found), tuple(problems))


def _read(pictures: tuple[Path, ...], kept: CaptionFiles) -> CaptionFile:
    path = kept.file_of(pictures[0])
    data = None if path is None else bytes_of(path)
    if path is not None and data is not None:
        return CaptionFile(path, pictures, decode_text(data, path)[0], data)
    path = pictures[0].with_suffix(kept.endings[0] if kept.endings else ".txt")
    return CaptionFile(path, pictures, read_caption(pictures[0], kept).text)


def parts_of(line: str) -> list[str]:
    """The tags of a line, as training parts them; a comma in a wildcard, {red, soft|blue}, parts nothing."""
    if not any(mark in line for mark in "([{\\"):
        return [tag for tag in map(str.strip, line.split(",")) if tag]
    whole = _BRACES.sub(lambda match: match[0].replace(",", "\0"), line)
    return [tag.replace("\0", ",") for tag in tags_of(whole)]


def lines_of(text: str) -> list[str]:
    return _LINE_END.split(text)[::2]


def one_line(text: str) -> str:
    """A caption to be shown where there is room for a line."""
    return " ⏎ ".join(line.strip() for line in lines_of(text.strip()))


def by_line(text: str, edit: Callable[[str], str]) -> str:
    """The text with each line that says something edited, its line ends as they are."""
    pieces = _LINE_END.split(text)
    pieces[::2] = [edit(line) if line.strip() else line for line in pieces[::2]]
    return "".join(pieces)


def having(files: Iterable[CaptionFile], with_tags: str = "", without_tags: str = "") -> list[CaptionFile]:
    """Those that have all of these tags and none of those, in any case."""
    wanted, unwanted = ({tag.casefold() for tag in parts_of(tags)} for tags in (with_tags, without_tags))
    if not wanted and not unwanted:
        return list(files)
    known = ((file, {tag.casefold() for tag in file.tags}) for file in files)
    return [file for file, tags in known if wanted <= tags and not unwanted & tags]
