"""Adding uploaded files to an image folder: each is checked, named so that nothing is overwritten, and taken once.

Several processes may add files to one folder at the same time: a lock is held from choosing the names to writing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreambooth import files
from dreambooth.errors import UserError
from dreambooth.images.file_kinds import CAPTION_EXTENSIONS, FileKind, advice, has_image_content, kind_of
from dreambooth.images.file_reader import read_all
from dreambooth.images.issues import UnusableFile
from dreambooth.images.listing import MASK_SUFFIXES
from dreambooth.images.probe import probe
from dreambooth.settings.names import clean_name
from dreambooth.text import escape_unprintable, format_bytes

MAX_BYTES = 2**28  # of an uploaded file: the largest image that can be decoded has about as many bytes uncompressed
_LOCK_TIMEOUT = 60.0  # seconds to wait for another process that adds files
_NO_NAME = "image"  # for a file whose name has nothing that a file name may contain


@dataclass(frozen=True)
class Upload:
    """An uploaded file, which has a temporary path on this machine."""

    name: str  # as the user knows it
    path: Path

    @property
    def shown_name(self) -> str:
        return escape_unprintable(self.name)


@dataclass
class Added:
    """What became of uploaded files."""

    new: list[Path] = field(default_factory=list)  # images that were added
    images: dict[str, Path] = field(default_factory=dict)  # by the upload's path: where it is now, also of duplicates
    duplicates: list[tuple[str, Path]] = field(default_factory=list)  # name, and the file with the same content
    renamed: list[tuple[str, Path]] = field(default_factory=list)  # name, and the one that it got instead
    refused: list[str] = field(default_factory=list)  # a line for each other file: name and reason


def add_uploads(folder: Path, uploads: Sequence[Upload], on_done: Callable[[int], None] = lambda n_done: None) -> Added:
    """Copy the images among ``uploads`` into ``folder``; whatever is no readable image is refused by name.

    Captions are none of this function's: pass images only. UserError when the folder can't be written.
    """
    added = Added()
    hashes = read_all(uploads, lambda upload, _: _checked(upload), on_done, path_of=lambda upload: upload.name)
    with _locked(folder):
        contents = _Contents(folder)
        for upload, content in zip(uploads, hashes, strict=True):
            if isinstance(content, UserError):
                cause = content.cause if isinstance(content, UnusableFile) else str(content)
                added.refused.append(f"{upload.shown_name}: {cause}")
            elif same := contents.find(content, upload.path):
                added.duplicates.append((upload.shown_name, same))
                added.images[str(upload.path)] = same
            else:
                _add(upload, content, contents, added)
    files.clear_leftovers(folder)
    return added


def remove_image(folder: Path, name: str) -> None:
    """Delete an image of ``folder`` with its captions and masks. UserError when it is not there."""
    image = folder / os.path.basename(name)
    with _locked(folder):
        if not image.is_file():
            raise UserError(f"{escape_unprintable(name)}: was already removed.")
        of_image = {image.stem + extension for extension in CAPTION_EXTENSIONS}
        masks = {image.stem + suffix for suffix in MASK_SUFFIXES}
        for path in [image, *folder.iterdir()]:
            if path == image or path.name in of_image or (path.stem in masks and kind_of(path.name) is FileKind.IMAGE):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise files.as_user_error(error, path, "remove") from error


def _checked(upload: Upload) -> str:
    """The hash of the file's bytes. UnusableFile if it is no image that can be trained."""
    path, kind = upload.path, kind_of(os.path.basename(upload.name))
    if os.path.isdir(path):
        raise UnusableFile(path, "not-a-file", "is a folder. Open it and add the images in it.")
    if kind is FileKind.HIDDEN:
        raise UnusableFile(path, "hidden", "is a hidden or system file, not an image.")
    if kind is FileKind.SIDE or (kind is FileKind.UNKNOWN and not has_image_content(path)):
        raise UnusableFile(path, "not-image", "is not an image. Add PNG, JPEG or WebP files.")
    if kind is not FileKind.IMAGE and kind is not FileKind.UNKNOWN:
        raise UnusableFile(path, "other-format", advice(upload.name))
    with contextlib.suppress(OSError):
        if (size := os.stat(path).st_size) > MAX_BYTES:
            limit = format_bytes(MAX_BYTES)
            raise UnusableFile(path, "too-large", f"is {format_bytes(size)}, at most {limit} is allowed. Resize it.")
    return probe(path).content


def _add(upload: Upload, content: str, contents: _Contents, added: Added) -> None:
    path = contents.free_path(upload.name)
    try:
        with files.atomic_write(path) as temporary:
            shutil.copyfile(upload.path, temporary)
    except UserError as error:
        added.refused.append(f"{upload.shown_name}: {error}")
        return
    contents.add(path, content)
    added.new.append(path)
    added.images[str(upload.path)] = path
    if path.name != os.path.basename(upload.name):
        added.renamed.append((upload.shown_name, path))


class _Contents:
    """The files of a folder, by name and by content. Only files of the size of an upload are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stems: set[str] = set()
        self.by_size: dict[int, list[Path]] = defaultdict(list)
        self.hashes: dict[Path, str] = {}
        for entry in os.scandir(folder):
            self.stems.add(_key(Path(entry.name).stem))
            with contextlib.suppress(OSError):
                if entry.is_file():
                    self.by_size[entry.stat().st_size].append(Path(entry.path))

    def add(self, path: Path, content: str) -> None:
        self.stems.add(_key(path.stem))
        self.by_size[path.stat().st_size].append(path)
        self.hashes[path] = content

    def find(self, content: str, upload: Path) -> Path | None:
        """A file with this content."""
        with contextlib.suppress(OSError):
            for path in self.by_size.get(upload.stat().st_size, []):
                if path not in self.hashes:
                    self.hashes[path] = files.content_hash(path)
                if self.hashes[path] == content:
                    return path
        return None

    def free_path(self, name: str) -> Path:
        """A path for an upload. No two images share a stem: they would share their caption."""
        extension = "".join(letter for letter in os.path.splitext(name)[1] if letter.isalnum() or letter == ".")
        stem = clean_name(os.path.splitext(os.path.basename(name))[0]) or _NO_NAME
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        return self.folder / (next(name for name in names if _key(name) not in self.stems) + extension)


def _key(stem: str) -> str:
    """Stems with the same key are one file where case does not matter."""
    return stem.casefold()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclude all other threads and processes that add or remove images. Creates the folder."""
    busy = f"Other images are being added to {folder}. Try again in a moment."
    with files.locked(folder / ".dreambooth" / "uploads.lock", _LOCK_TIMEOUT, lambda: busy):
        yield
