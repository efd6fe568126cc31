"""Which files of a folder are pictures, captions and masks, and which of them a run leaves alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.images.file_reader import read_all
from dreambooth.images.issues import UnusableFile, named

CAPTION_EXTENSIONS = (".txt", ".caption")  # of caption files, unless a concept says otherwise

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".avif", ".gif", ".tif", ".tiff"})

# Pictures too, of kinds that are left out of a run.
OTHER_SUFFIXES = frozenset({
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".xcf", ".kra", ".svg", ".exr", ".hdr", ".tga", ".ppm", ".pgm",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
})  # fmt: skip

_PATIENCE = 60.0  # seconds for one folder to be listed
_NO_CAPTIONS = re.compile(r"(readme|licen[cs]e|requirements|metadata|classes|changelog)\b.*", re.IGNORECASE)

# How a mask is called beside its picture: as OneTrainer does, and as most people do.
MASK_ENDINGS = ("-masklabel", "_mask")

# What cameras, NAS boxes, archives and systems leave among pictures.
_OURS = (".dreambooth", ".originals-", ".changed-")  # what undo needs: nobody has to be told of it
_HIDDEN = frozenset({"@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"})


@dataclass
class Listing:
    """What lies in a folder and the folders below it, each in natural order (2.png before 10.png)."""

    pictures: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)  # pictures of a kind that can't be used
    hidden: list[Path] = field(default_factory=list)  # hidden files, thumbnails and their folders
    orphans: list[Path] = field(default_factory=list)  # captions without a picture
    closed: list[UnusableFile] = field(default_factory=list)  # folders below that can't be listed


def find_images(folder: str | Path) -> list[Path]:
    """All picture files in `folder` and the folders below it, in natural order. Errors as of :func:`look_through`."""
    return listed(folder).pictures


def listed(folder: str | Path) -> Listing:
    """:func:`look_through`, given up when the drive gives no answer any more."""
    (listing,) = read_all([folder], lambda path, reader: look_through(path, reader.beat), patience=_PATIENCE)
    if isinstance(listing, UserError):
        raise listing
    return listing


def look_through(folder: str | Path, beat: Callable[[], None] = lambda: None) -> Listing:
    """What lies in `folder` and the folders below it.

    Hidden files and thumbnail folders are left out; links are followed, each real folder once, so that
    links in a circle end. AVIF is always listed: where Pillow can't read it, reading says so, instead
    of the picture silently missing. `beat` is called whenever the drive has answered.
    Raises UserError for a folder that isn't there or can't be listed.
    """
    if os.path.isfile(folder):  # unlike Path's, it takes any name
        raise UserError(f"{named(folder)}: is a file. Give the folder that holds the pictures.")
    if not os.path.isdir(folder):
        raise UserError(f"{named(folder)}: there is no such folder. Correct the path, or make the folder.")
    listing = Listing()
    visited: set[str] = set()

    def closed(error: OSError) -> None:
        _note_closed(error, folder, listing)

    for here, folders, names in os.walk(folder, followlinks=True, onerror=closed):
        beat()
        real = os.path.realpath(here)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        listing.hidden += [Path(here, name) for name in folders if _is_hidden(name) and not name.startswith(_OURS)]
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        _sort_in(here, names, listing)
        if not names and not folders and _suffix(here) in SUFFIXES:
            listing.pictures.append(Path(here))  # an empty folder that is called like a picture: reading names it
    root = os.path.join(folder, "")
    for paths in (listing.pictures, listing.others, listing.hidden, listing.orphans):
        paths.sort(key=lambda path: natural_order(str(path).removeprefix(root)))
    return listing


def masks_of(pictures: Sequence[Path]) -> dict[Path, Path]:
    """Those that have a mask beside them (NAME-masklabel or NAME_mask, in any format), each with its mask."""
    known = {_stem(path): path for path in reversed(pictures)}
    masks = {}
    for path in pictures:
        stem = _stem(path)
        for ending in MASK_ENDINGS:
            picture = known.get(stem.removesuffix(ending)) if stem.endswith(ending) else None
            if picture is not None:
                masks[picture] = path
    return masks


def natural_order(path: str | Path) -> tuple:
    """Sort key: numbers by value, letters without case; the exact text decides between equals."""
    parts = [
        [int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", part)]
        for part in str(path).split(os.sep)
    ]
    return parts, str(path)


def _sort_in(here: str, names: Sequence[str], listing: Listing) -> None:
    stems: set[str] = set()
    captions = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        if _is_hidden(name):
            listing.hidden.append(Path(here, name))
        elif suffix in SUFFIXES or suffix in OTHER_SUFFIXES:
            (listing.pictures if suffix in SUFFIXES else listing.others).append(Path(here, name))
            stems.add(stem)
        elif suffix in CAPTION_EXTENSIONS and not _NO_CAPTIONS.fullmatch(name):
            captions.append((stem, name))
    listing.orphans += [Path(here, name) for stem, name in captions if stem not in stems]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _HIDDEN


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _stem(path: Path) -> str:
    return os.path.splitext(path)[0]


def _note_closed(error: OSError, folder: str | Path, listing: Listing) -> None:
    """Only a folder that can't be listed itself is an error; one below it costs what it holds."""
    cause = f"this folder can't be read ({error.strerror})."
    if os.path.normpath(error.filename) == os.path.normpath(folder):
        raise UserError(f"{named(error.filename)}: {cause}") from error
    listing.closed.append(UnusableFile(error.filename, "unreadable", cause))
