"""Issues of single files (unreadable, duplicate, without a caption...), their kinds, and their summaries by kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.text import escape_unprintable

_MAX_NAMED = 3  # files that a warning names; more are counted


@dataclass(frozen=True)
class IssueKind:
    """A kind of issue."""

    title: str
    is_warning: bool = True  # among a run's warnings; otherwise only in the table of images


# fmt: off
ISSUE_KINDS = {
    # Files that are not trained.
    "empty": IssueKind("Left out: empty files"),
    "unreadable": IssueKind("Left out: not readable as an image"),
    "truncated": IssueKind("Left out: truncated"),
    "too-large": IssueKind("Left out: too large"),
    "too-small": IssueKind("Left out: too small for a bucket without upscaling"),
    "not-a-file": IssueKind("Left out: not a file (a folder, pipe, device or broken link)"),
    "vanished": IssueKind("Left out: deleted after the folder was listed"),
    "changing": IssueKind("Left out: written to while being read"),
    "stalled": IssueKind("Left out: the drive did not respond"),
    "other-format": IssueKind("Left out: unsupported format, convert to PNG or JPEG"),
    "not-image": IssueKind("Left out: not images (videos, archives, shortcuts and similar)"),
    "caption-unreadable": IssueKind("Left out: unreadable caption"),
    "elsewhere": IssueKind("Left out: in a subfolder, and subfolders are off"),
    "surplus": IssueKind("Left out: more regularization images than needed"),
    "hidden": IssueKind("Hidden files and thumbnails", is_warning=False),
    "side-file": IssueKind("Other files, not used", is_warning=False),
    "absent": IssueKind("Missing, but listed in the metadata file"),
    "unlisted": IssueKind("Not listed in the metadata file"),
    "orphan": IssueKind("Captions without an image"),
    # How an image is decoded.
    "mislabelled": IssueKind("Wrong file extension", is_warning=False),
    "turned": IssueKind("Rotated according to EXIF data", is_warning=False),
    "exif-damaged": IssueKind("Unreadable EXIF data, so not rotated"),
    "animated": IssueKind("Animated, only the first frame is used"),
    "deep": IssueKind("More than 8 bits per channel, scaled to 8", is_warning=False),
    "cmyk": IssueKind("CMYK, converted to RGB", is_warning=False),
    "profile": IssueKind("Color profile other than sRGB, converted", is_warning=False),
    "profile-damaged": IssueKind("Unusable color profile, assumed to be sRGB"),
    "transparent": IssueKind("Transparent, flattened on white"),
    # How it is trained.
    "mask": IssueKind("Used as masks of other images, not trained themselves"),
    "mask-missing": IssueKind("Without a mask in the mask directory, trained as a whole"),
    "mask-unused": IssueKind("Masks without an image"),
    "mask-size": IssueKind("Masks of another size than their image, resized"),
    "mask-shape": IssueKind("Masks with another aspect ratio than their image, stretched to fit"),
    "enlarged": IssueKind("Small images, upscaled more than 2 times"),
    "cropped": IssueKind("Far from every bucket's aspect ratio, more than a quarter is cropped"),
    "duplicate": IssueKind("Duplicate files"),
    "near-duplicate": IssueKind("Near duplicates"),
    # Its caption.
    "no-caption": IssueKind("No caption file, so the file name is the caption"),
    "other-caption": IssueKind("Captions that are not read: Caption file extension (caption_extension) is another"),
    "empty-caption": IssueKind("Empty captions"),
    "no-words": IssueKind("Neither caption nor token, trained with an empty prompt"),
    "caption-encoding": IssueKind("Captions that are not UTF-8, whose encoding was recognized"),
    "caption-damaged": IssueKind("Captions with traces of a wrong conversion"),
    "caption-syntax": IssueKind("Captions with syntax of WebUIs, which is trained as plain words"),
    "caption-shared": IssueKind("Images that share one caption file"),
    "token-missing": IssueKind("Instance token missing in the caption, so it is inserted"),
    "folder-name": IssueKind("Folder names with a number that is not used as repeats"),
    "class-in-token": IssueKind("Instance token that contains the class token"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class FileIssue:
    """An issue of one file: why it is not trained, or a warning about how it is."""

    path: Path
    kind: str  # a key of ISSUE_KINDS
    text: str  # one line with the cause and the fix, without the path
    left_out: bool = False  # the file is not trained
    detail: str = ""  # one or two words for the warning that lists the files


class UnusableFile(UserError):
    """A file that can't be trained: the kind of issue and the cause."""

    def __init__(self, path: str | Path, kind: str, cause: str) -> None:
        super().__init__(f"{escape_unprintable(path)}: {cause}")
        self.path, self.kind, self.cause = Path(path), kind, cause


def warning_lines(issues: Iterable[FileIssue]) -> list[str]:
    """One line for each kind that is a warning: the number of files, and the names of the first few."""
    by_kind: dict[str, list[FileIssue]] = defaultdict(list)
    for issue in issues:
        by_kind[issue.kind].append(issue)
    kinds = {key: kind for key, kind in ISSUE_KINDS.items() if kind.is_warning and key in by_kind}
    return [_warning_line(kind, by_kind[key]) for key, kind in kinds.items()]


def summarize(issues: Sequence[FileIssue]) -> str:
    """The number of issues of each kind, the most frequent first: "3 left out: too large; 1 left out: ..."."""
    counts: dict[str, int] = defaultdict(int)
    for issue in issues:
        counts[issue.kind] += 1
    most_frequent_first = sorted(counts, key=lambda kind: -counts[kind])
    titles = ((kind, ISSUE_KINDS[kind].title) for kind in most_frequent_first)
    return "; ".join(f"{counts[kind]} {title[0].lower()}{title[1:]}" for kind, title in titles)


def _warning_line(kind: IssueKind, issues: Sequence[FileIssue]) -> str:
    names = ", ".join(
        f"{escape_unprintable(issue.path)}{f' ({issue.detail})' if issue.detail else ''}"
        for issue in issues[:_MAX_NAMED]
    )
    more = f" and {len(issues) - _MAX_NAMED} more" if len(issues) > _MAX_NAMED else ""
    return f"{kind.title} ({len(issues)}): {names}{more}"
