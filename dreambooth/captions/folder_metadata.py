"""metadata.jsonl and metadata.csv among images, as in Hugging Face's imagefolder datasets.

They give captions to the images that have no caption file. A file lists images in its own folder and below it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dreambooth.captions.metadata_file import MetadataFile
from dreambooth.captions.reading import Caption
from dreambooth.errors import UserError

_NAMES = ("metadata.jsonl", "metadata.csv")
METADATA_NAMES = " or ".join(_NAMES)
_LEVELS = 4  # the folder of an image and those above it, in which files that list it are looked for


def is_metadata_name(name: str) -> bool:
    return name.lower() in _NAMES


def caption_near(image: Path, caption_lines: str) -> Caption | None:
    """The caption of an image from a metadata file in its folder or above it; None if none lists it."""
    for path in _files_near(os.path.dirname(os.path.abspath(image))):
        metadata = _read(path, caption_lines)
        if metadata is not None and metadata.lists(image):
            return metadata.caption(image)
    return None


def files_near(images: Iterable[Path]) -> list[Path]:
    """The metadata files in the folders of these images and above them, each once."""
    folders = dict.fromkeys(os.path.dirname(os.path.abspath(image)) for image in images)
    return list(dict.fromkeys(path for folder in folders for path in _files_near(folder)))


def read(path: Path) -> MetadataFile:
    """UserError or OSError if it can't be read."""
    return MetadataFile.read(path, os.path.dirname(path))


def _read(path: Path, caption_lines: str) -> MetadataFile | None:
    with contextlib.suppress(UserError, OSError):  # reported once by the training plan
        return MetadataFile.read(path, os.path.dirname(path), caption_lines)
    return None


def _files_near(folder: str) -> Iterator[Path]:
    for _ in range(_LEVELS):
        try:
            modified = os.stat(folder).st_mtime_ns
        except OSError:
            return
        yield from _files_in(folder, modified)
        above = os.path.dirname(folder)
        if above == folder:
            return
        folder = above


@functools.lru_cache(maxsize=4096)
def _files_in(folder: str, modified: int) -> tuple[Path, ...]:
    """``modified``: of the folder, so that new files are found."""
    try:
        names = os.listdir(folder)
    except OSError:
        return ()
    found = sorted(filter(is_metadata_name, names), key=lambda name: _NAMES.index(name.lower()))
    return tuple(Path(folder, name) for name in found)
