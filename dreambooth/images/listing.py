"""Listing of folders: which files are images, captions and masks, and which are ignored."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.images.file_kinds import IMAGE_EXTENSIONS, FileKind, has_image_content, is_hidden, kind_of
from dreambooth.images.file_reader import Heartbeat, no_heartbeat, read_all
from dreambooth.images.issues import UnusableFile
from dreambooth.paths import is_windows_path
from dreambooth.text import escape_unprintable

# Ends of the names of masks: as OneTrainer has them, and the most common one.
MASK_SUFFIXES = ("-masklabel", "_mask")

_TIMEOUT = 60.0  # seconds without a response of the drive while a folder is listed
_OUR_FOLDERS = (".dreambooth", ".originals-", ".changed-")  # for undo: hidden, and not worth a note


@dataclass
class Listing:
    """The files in a folder and its subfolders, each list in natural order (2.png before 10.png)."""

    images: list[Path] = field(default_factory=list)
    unsupported: list[Path] = field(default_factory=list)  # images of unsupported formats
    not_images: list[Path] = field(default_factory=list)  # videos, archives, shortcuts...
    side_files: list[Path] = field(default_factory=list)  # of programs and people
    hidden: list[Path] = field(default_factory=list)  # hidden files, thumbnails and their folders
    orphans: list[Path] = field(default_factory=list)  # captions without an image
    unreadable_folders: list[UnusableFile] = field(default_factory=list)

    def lists(self) -> tuple[list[Path], ...]:
        """All lists of files."""
        return self.images, self.unsupported, self.not_images, self.side_files, self.hidden, self.orphans


def find_images(folder: str | Path) -> list[Path]:
    """All image files in ``folder`` and its subfolders, in natural order. Errors as of :func:`scan_folder`."""
    return list_files(folder).images


def list_files(folder: str | Path) -> Listing:
    """:func:`scan_folder` with a timeout for drives that stop responding."""
    (listing,) = read_all([folder], lambda path, reader: scan_folder(path, reader.heartbeat), timeout=_TIMEOUT)
    if isinstance(listing, UserError):
        raise listing
    return listing


def scan_folder(folder: str | Path, heartbeat: Heartbeat = no_heartbeat) -> Listing:
    """The files in ``folder`` and its subfolders.

    Links are followed, each real folder once, so that circular links end. AVIF is always listed: where Pillow can't
    decode it, decoding reports that. ``heartbeat`` is called whenever the drive has responded.
    UserError for a folder that does not exist or can't be listed.
    """
    if os.path.isfile(folder):  # unlike Path.is_file, it takes any name
        raise UserError(f"{escape_unprintable(folder)}: is a file. Enter the folder that contains the images.")
    if not os.path.isdir(folder):
        if is_windows_path(folder):
            raise UserError(
                f"{escape_unprintable(folder)} is a folder of a Windows computer. Enter the path on this one."
            )
        raise UserError(f"{escape_unprintable(folder)}: there is no such folder. Correct the path, or create it.")
    listing = Listing()
    visited: set[str] = set()

    def on_error(error: OSError) -> None:
        _add_unreadable_folder(error, folder, listing)

    for here, folders, names in os.walk(folder, followlinks=True, onerror=on_error):
        heartbeat()
        real = os.path.realpath(here)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        listing.hidden += [
            Path(here, name) for name in folders if is_hidden(name) and not name.startswith(_OUR_FOLDERS)
        ]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        _add_files(here, names, listing, heartbeat)
        if not names and not folders and _extension(here) in IMAGE_EXTENSIONS:
            listing.images.append(Path(here))  # an empty folder named like an image: reading it reports the cause
    root = os.path.join(folder, "")
    for paths in listing.lists():
        paths.sort(key=lambda path: natural_order(str(path).removeprefix(root)))
    return listing


def masks_of(images: Sequence[Path]) -> dict[Path, Path]:
    """The mask (NAME-masklabel or NAME_mask, in any format) of each image that has one next to it."""
    by_stem = {_stem(path): path for path in reversed(images)}
    masks = {}
    for path in images:
        stem = _stem(path)
        for suffix in MASK_SUFFIXES:
            image = by_stem.get(stem.removesuffix(suffix)) if stem.endswith(suffix) else None
            if image is not None:
                masks[image] = path
    return masks


def natural_order(path: str | Path) -> tuple:
    """Sort key: numbers by value, letters case-insensitively; the exact text decides between equals."""
    parts = [
        [int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", part)]
        for part in str(path).split(os.sep)
    ]
    return parts, str(path)


def _add_files(folder: str, names: Sequence[str], listing: Listing, heartbeat: Heartbeat) -> None:
    lists = {
        FileKind.IMAGE: listing.images,
        FileKind.UNSUPPORTED: listing.unsupported,
        FileKind.NOT_IMAGE: listing.not_images,
        FileKind.SIDE: listing.side_files,
        FileKind.HIDDEN: listing.hidden,
    }
    stems: set[str] = set()
    captions = []

    def looks_like_image(name: str) -> bool:
        heartbeat()
        return has_image_content(os.path.join(folder, name))

    for name in names:
        kind = kind_of(name)
        if kind is FileKind.UNKNOWN:
            kind = FileKind.IMAGE if looks_like_image(name) else FileKind.SIDE
        if kind is FileKind.CAPTION:
            captions.append(name)
            continue
        lists[kind].append(Path(folder, name))
        if kind in (FileKind.IMAGE, FileKind.UNSUPPORTED):
            stems.add(_stem(name))
    for name in captions:
        if _stem(name) not in stems:
            (listing.unsupported if looks_like_image(name) else listing.orphans).append(Path(folder, name))


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _stem(path: str | Path) -> str:
    return os.path.splitext(path)[0]


def _add_unreadable_folder(error: OSError, folder: str | Path, listing: Listing) -> None:
    """Raise UserError for ``folder`` itself; of an unreadable subfolder, only its files are missing."""
    cause = f"this folder can't be read ({error.strerror})."
    if os.path.normpath(error.filename) == os.path.normpath(folder):
        raise UserError(f"{escape_unprintable(error.filename)}: {cause}") from error
    listing.unreadable_folders.append(UnusableFile(error.filename, "unreadable", cause))
