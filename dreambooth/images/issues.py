"""What can be said of a single file before it is trained: the kinds, and all files of one kind in one line."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.errors import UserError

_NAMED = 3  # files that a warning names


@dataclass(frozen=True)
class Kind:
    """One kind of note."""

    title: str  # what its files have in common
    warned_of: bool = True  # named in a run's warnings, not only listed


# fmt: off
KINDS = {
    # No part of the run.
    "empty": Kind("Left out, files of 0 bytes"),
    "unreadable": Kind("Left out, can't be read as a picture"),
    "truncated": Kind("Left out, cut off before the picture ends"),
    "too-large": Kind("Left out, too large"),
    "too-small": Kind("Left out, too small for a bucket without enlarging"),
    "not-a-file": Kind("Left out, not a file (a folder, pipe, device or broken link)"),
    "vanished": Kind("Left out, gone since the folder was listed"),
    "changing": Kind("Left out, written to while being read"),
    "stalled": Kind("Left out, the drive gave no answer"),
    "other-format": Kind("Left out, convert to PNG or JPEG to use them"),
    "caption-unreadable": Kind("Left out, the caption can't be read"),
    "elsewhere": Kind("Left out, in folders below one that is to be taken alone"),
    "surplus": Kind("Left out, more regularization pictures than showings of the others"),
    "hidden": Kind("Hidden files and thumbnails", warned_of=False),
    "absent": Kind("Named by a metadata file, and not there"),
    "orphan": Kind("Captions without a picture"),
    # How a picture is read.
    "mislabelled": Kind("Called other than what they are", warned_of=False),
    "turned": Kind("Turned upright as their EXIF data says", warned_of=False),
    "exif-damaged": Kind("EXIF data that can't be read, so not turned"),
    "animated": Kind("Animated, only the first frame is used"),
    "deep": Kind("More than 8 bits per channel, scaled to 8", warned_of=False),
    "cmyk": Kind("Print colours (CMYK), converted", warned_of=False),
    "profile": Kind("Another colour profile than sRGB, converted", warned_of=False),
    "profile-damaged": Kind("A colour profile that can't be used, colours taken as sRGB"),
    "transparent": Kind("Transparent, laid on white"),
    # How it is trained.
    "mask": Kind("Taken as masks of the pictures beside them, not trained as pictures"),
    "mask-shape": Kind("Masks of another shape than their pictures, stretched over them"),
    "enlarged": Kind("Small pictures, enlarged more than 2 times"),
    "cropped": Kind("Far from any bucket's shape, more than a quarter is cut off"),
    "duplicate": Kind("The same file more than once"),
    "near-duplicate": Kind("Nearly the same picture more than once"),
    # What it is called.
    "no-caption": Kind("No caption file, so the file name is the caption"),
    "empty-caption": Kind("Empty captions"),
    "no-words": Kind("Neither caption nor token, trained with an empty prompt"),
    "caption-encoding": Kind("Captions that are not UTF-8, read as Windows-1252"),
    "caption-shared": Kind("Pictures that share one caption file"),
    "token-missing": Kind("The instance token is not in the caption and is put in"),
    "class-in-token": Kind("The class word stands in the instance token"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class FileIssue:
    """What a person should know of one file before it is trained, or why it is not."""

    path: Path
    kind: str  # one word for counting and for machines: unreadable, turned, enlarged, duplicate, no-caption, ...
    text: str  # one line that names the cause and the fix; without the path
    left_out: bool = False  # the file is no part of the run


class UnusableFile(UserError):
    """A file that can't be part of a run: of which kind, and why."""

    def __init__(self, path: str | Path, kind: str, cause: str) -> None:
        super().__init__(f"{named(path)}: {cause}")
        self.path, self.kind, self.cause = Path(path), kind, cause


def named(path: str | Path) -> str:
    """The path on one line, as it can be printed: names may hold line breaks, other directions, bytes of no script."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), str(path))


def in_lines(notes: Iterable[FileIssue]) -> list[str]:
    """One line for each kind that is to be warned of: how many files, and the first by name."""
    by_kind: dict[str, list[FileIssue]] = defaultdict(list)
    for note in notes:
        by_kind[note.kind].append(note)
    return [_line(kind, by_kind[name]) for name, kind in KINDS.items() if kind.warned_of and name in by_kind]


def counted(notes: Sequence[FileIssue]) -> str:
    """Causes with their numbers, the most frequent first: "3 left out, too large; 1 left out, ..."."""
    numbers: dict[str, int] = defaultdict(int)
    for note in notes:
        numbers[note.kind] += 1
    often = sorted(numbers, key=lambda kind: -numbers[kind])
    return "; ".join(f"{numbers[kind]} {KINDS[kind].title[0].lower()}{KINDS[kind].title[1:]}" for kind in often)


def _line(kind: Kind, notes: Sequence[FileIssue]) -> str:
    names = ", ".join(named(note.path) for note in notes[:_NAMED])
    more = f" and {len(notes) - _NAMED} more" if len(notes) > _NAMED else ""
    return f"{kind.title} ({len(notes)}): {names}{more}"


# Control characters, line and paragraph separators, changes of direction, and bytes that were no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
