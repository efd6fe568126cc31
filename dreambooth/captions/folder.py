"""The captions of a folder for editing: the texts that training reads, and the bytes of their files.

A caption of several lines is edited line by line; its line ends stay.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dreambooth.captions.reading import CaptionSource, decode_caption, read_caption, read_caption_bytes
from dreambooth.captions.tags import split_tags_and_wildcards
from dreambooth.errors import UserError
from dreambooth.images.file_reader import read_all
from dreambooth.images.listing import find_images, masks_of
from dreambooth.types import ProgressCallback

_LINE_END = re.compile(r"(\r\n|\r|\n)")


@dataclass(frozen=True)
class CaptionFile:
    """A caption, and its images: more than one where they differ only in their file extension."""

    path: Path  # of the file, which may not exist yet
    images: tuple[Path, ...]
    text: str  # with its line ends; without a file, the caption that training uses instead
    data: bytes | None = None  # the file's content; None without a file

    @cached_property
    def tags(self) -> dict[str, None]:
        """Its unique tags, in order."""
        return dict.fromkeys(tag for line in split_lines(self.text) for tag in split_tags_and_wildcards(line))


@dataclass(frozen=True)
class Captions:
    """All captions of a folder, in the order of its images."""

    folder: Path
    files: tuple[CaptionFile, ...]
    problems: tuple[str, ...] = ()  # of captions that can't be read; no edit changes these

    @property
    def n_images(self) -> int:
        return sum(len(file.images) for file in self.files)

    def tag_counts(self) -> dict[str, int]:
        """The number of images of each tag, the most frequent first."""
        counts: Counter[str] = Counter()
        for file in self.files:
            for tag in file.tags:
                counts[tag] += len(file.images)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0].casefold(), item[0])))


def read_captions(folder: Path, source: CaptionSource, progress: ProgressCallback | None = None) -> Captions:
    """The captions of all images in the folder and its subfolders. UserError when the folder can't be read."""
    images = find_images(folder)
    masks = set(masks_of(images).values())
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for image in images:
        if image not in masks:
            by_stem[image.with_suffix("")].append(image)
    groups = [tuple(group) for group in by_stem.values()]

    def on_done(n_done: int) -> None:
        if progress and n_done % 100 == 0:
            progress(n_done, len(groups), "captions")

    results = read_all(groups, lambda group, _: _read(group, source), on_done, path_of=lambda group: group[0])
    files = [result for result in results if isinstance(result, CaptionFile)]
    problems = [problem for result in results if isinstance(result, UserError) for problem in result.problems]
    return Captions(Path(folder), tuple(files), tuple(problems))


def _read(images: tuple[Path, ...], source: CaptionSource) -> CaptionFile:
    path = source.find(images[0])
    data = None if path is None else read_caption_bytes(path)
    if path is not None and data is not None:
        return CaptionFile(path, images, decode_caption(data, path)[0], data)
    path = images[0].with_suffix(source.extensions[0] if source.extensions else ".txt")
    return CaptionFile(path, images, read_caption(images[0], source).text)


def split_lines(text: str) -> list[str]:
    return _LINE_END.split(text)[::2]


def preview_line(text: str) -> str:
    """The caption on one line, for display."""
    return " ⏎ ".join(line.strip() for line in split_lines(text.strip()))


def edit_lines(text: str, edit: Callable[[str], str]) -> str:
    """The text with each line that is not empty edited, and its line ends unchanged."""
    pieces = _LINE_END.split(text)
    pieces[::2] = [edit(line) if line.strip() else line for line in pieces[::2]]
    return "".join(pieces)


def filter_by_tags(files: Iterable[CaptionFile], with_tags: str = "", without_tags: str = "") -> list[CaptionFile]:
    """The captions with all of ``with_tags`` and none of ``without_tags`` (comma-separated), in any case."""
    required, excluded = (
        {tag.casefold() for tag in split_tags_and_wildcards(tags)} for tags in (with_tags, without_tags)
    )
    if not required and not excluded:
        return list(files)
    with_their_tags = ((file, {tag.casefold() for tag in file.tags}) for file in files)
    return [file for file, tags in with_their_tags if required <= tags and not excluded & tags]
