"""Metadata files: the captions of many images in one file. Their rows: :mod:`dreambooth.captions.metadata_rows`."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from dreambooth.captions import kohya_rules as kohya
from dreambooth.captions.metadata_rows import Row, read_rows
from dreambooth.captions.reading import Caption, CaptionSource, read_caption, split_captions
from dreambooth.errors import UserError
from dreambooth.paths import clean_path
from dreambooth.text import count

if TYPE_CHECKING:
    from dreambooth.settings import Concept

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class MetadataFile:
    """The captions of a metadata file, for images in one folder."""

    path: Path
    rows: Mapping[str, tuple[Row, ...]]  # by absolute path, with or without extension
    caption_lines: str
    verbatim: bool = False  # as sd-scripts read them
    folded: Mapping[str, str] = field(default_factory=dict)  # path in lower case -> path: names written otherwise
    notes: tuple[str, ...] = ()  # on paths of another computer, and images that are listed twice

    @classmethod
    def from_concept(cls, concept: Concept) -> MetadataFile:
        """Read a concept's metadata file. UserError names what is wrong with it."""
        path = clean_path(concept.metadata_file)
        folder = os.path.abspath(clean_path(concept.instance_data_dir))
        try:
            return cls.read(path, folder, concept.caption_lines, concept.reading_rule == "kohya")
        except FileNotFoundError as error:
            raise UserError(f"metadata_file: {path} can't be read ({error.strerror or error}).") from error

    @classmethod
    def read(cls, path: Path, folder: str, caption_lines: str = "joined", verbatim: bool = False) -> MetadataFile:
        """``folder``: of the images. UserError names what is wrong; OSError if there is no such file."""
        return _read(path, path.stat().st_mtime_ns, folder, caption_lines, verbatim)

    @property
    def paths(self) -> list[Path]:
        """What the file lists, with or without extension."""
        return [Path(key) for key in self.rows]

    def existing(self) -> list[Path]:
        """The listed paths that exist, with some extension if they have none."""
        locate = _Locator(())
        return [path for path in self.paths if locate.exists(str(path))]

    def lists(self, image: Path) -> bool:
        return self._key(image) is not None

    def listed(self, images: Sequence[Path]) -> list[Path]:
        """The images that the file has captions for."""
        return [path for path in images if self.lists(path)]

    def not_among(self, images: Sequence[Path]) -> list[Path]:
        """Paths of the file that are none of these images: they are elsewhere, or missing."""
        found = {self._key(path) for path in images}
        return [Path(key) for key in self.rows if key not in found]

    def caption(self, image: Path) -> Caption:
        rows = self.rows[self._key(image) or ""]
        if self.verbatim:
            entry = {"caption": rows[0].captions[0], "tags": rows[0].tags}
            return Caption(kohya.caption_of_entry(entry, self.caption_lines), self.path.name)
        texts = [text for row in rows for text in _texts(row, self.caption_lines)]
        first, *alternatives = dict.fromkeys(texts)
        return Caption(first, self.path.name, alternatives=tuple(alternatives))

    def _key(self, image: Path) -> str | None:
        path = os.path.abspath(image)
        stem = os.path.splitext(path)[0]
        key = next((key for key in (path, stem) if key in self.rows), None)
        return key or self.folded.get(path.lower()) or self.folded.get(stem.lower())


def caption_of(image: Path, concept: Concept, is_class_image: bool = False) -> Caption:
    """The caption of a concept's image, from its metadata file or the image's caption file. UserError names the file.

    ``is_class_image``: of an image in class_data_dir.
    """
    if concept.metadata_file.strip() and not is_class_image:
        return MetadataFile.from_concept(concept).caption(image)
    return read_caption(image, CaptionSource.from_concept(concept, is_class_image))


@functools.lru_cache(maxsize=8)
def _read(path: Path, modified: int, folder: str, caption_lines: str, verbatim: bool) -> MetadataFile:
    """``modified`` is part of the cache key, so that the file is read once for all of its images."""
    found = read_rows(path)
    base = folder if found.by_key else os.path.dirname(os.path.abspath(path))
    locate = _Locator(dict.fromkeys((base, folder)))
    rows: dict[str, list[Row]] = {}
    for row in found.rows:
        rows.setdefault(locate(row.file), []).append(row)
    folded = {} if verbatim else {key.lower(): key for key in rows}
    return MetadataFile(
        path,
        {key: tuple(own) for key, own in rows.items()},
        caption_lines,
        verbatim,
        folded,
        _notes(path, rows, locate),
    )


def _notes(path: Path, rows: Mapping[str, Sequence[Row]], locate: _Locator) -> tuple[str, ...]:
    notes = []
    if locate.moved:
        notes.append(
            f"{path}: {count(len(locate.moved), 'path')} of another computer (such as {locate.moved[0]}), found by "
            "the end of the path."
        )
    twice = [key for key, own in rows.items() if len(own) > 1]
    if twice:
        notes.append(
            f"{path}: {count(len(twice), 'image')} listed more than once (such as {os.path.basename(twice[0])}). One "
            "of the captions is picked at random each time."
        )
    return tuple(notes)


def _texts(row: Row, caption_lines: str) -> list[str]:
    """The captions of a row, with its tags appended to each."""
    captions = []
    for caption in row.captions:
        captions += split_captions(_join_caption_and_tags(caption, row.tags or "", caption_lines), caption_lines)
    return captions


def _join_caption_and_tags(caption: str, tags: str, caption_lines: str) -> str:
    """Caption and tags, joined by a comma; where each line is a caption, the tags are appended to each."""
    if caption_lines == "joined":
        return ", ".join(filter(None, (caption, tags)))
    lines = [line for line in caption.splitlines() if line.strip()] or [""]
    return "\n".join(", ".join(filter(None, (line, tags.replace("\n", ", ")))) for line in lines)


class _Locator:
    """Absolute paths of listed files: relative ones are in the first of some folders where they exist."""

    def __init__(self, folders: Iterable[str]) -> None:
        self.folders = list(folders)
        self.moved: list[str] = []  # absolute paths that do not exist here, found by their end
        self._names: dict[str, set[str]] = {}

    def __call__(self, file: str) -> str:
        first = os.path.abspath(os.path.join(self.folders[0], file))
        is_foreign = os.sep == "/" and ("\\" in file or bool(_DRIVE.match(file)))
        if len(self.folders) == 1 and not is_foreign and not os.path.isabs(file):
            return first
        candidates = [first, *(os.path.abspath(os.path.join(folder, file)) for folder in self.folders[1:])]
        existing = next((path for path in candidates if self.exists(path)), "")
        if existing:
            return existing
        return self._by_end(file, is_foreign) or first

    def _by_end(self, file: str, is_foreign: bool) -> str:
        """The path in a folder that ends as the listed one does, the longest such end first."""
        given = PureWindowsPath(file) if is_foreign else Path(file)
        is_absolute = given.is_absolute()
        parts = given.parts[1:] if is_absolute else given.parts
        for start in range(len(parts)) if is_absolute else [0]:
            for folder in self.folders:
                path = os.path.abspath(os.path.join(folder, *parts[start:]))
                if self.exists(path):
                    self.moved += [file] if is_absolute else []
                    return path
        return ""

    def exists(self, path: str) -> bool:
        """Whether there is such a file, in capitals or not, or one with this name and some extension."""
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                names = os.listdir(folder)
            except (OSError, ValueError):
                names = []
            names = [other.lower() for other in names]
            self._names[folder] = {*names, *(os.path.splitext(other)[0] for other in names)}
        return name.lower() in self._names[folder]
