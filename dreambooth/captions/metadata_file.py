"""A JSON file with the captions of many pictures, as kohya's fine-tuning scripts write it.

An object with a key for each picture (its path, or its name within the folder, with or without an ending) and
``caption`` and ``tags`` as values; or, as .jsonl, a line with ``image_path`` and those for each.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.captions import kohya_rules as kohya
from dreambooth.captions.reading import Caption, CaptionFiles, captions_in, read_caption
from dreambooth.errors import UserError
from dreambooth.files import expand_user, as_user_error, read_bounded

if TYPE_CHECKING:
    from dreambooth.settings import Concept

_LARGEST = 2**28  # bytes: a million pictures with long captions


@dataclass(frozen=True)
class MetadataFile:
    """What it says of the pictures in ``folder``."""

    path: Path
    captions: Mapping[str, str]  # by absolute path, with and without ending
    lines: str
    word_for_word: bool = False

    @classmethod
    def of(cls, concept: Concept) -> MetadataFile:
        """Read the concept's. UserError names what is wrong with it."""
        path = expand_user(concept.metadata_file.strip())
        try:
            changed = path.stat().st_mtime_ns
        except OSError as error:
            raise UserError(f"metadata_file: {path} can't be read ({error.strerror or error}).") from error
        folder = os.path.abspath(expand_user(concept.instance_data_dir.strip()))
        return _read(path, changed, folder, concept.caption_lines, concept.reading_rule == "kohya")

    def among(self, pictures: Sequence[Path]) -> list[Path]:
        """Those of the pictures that it names."""
        return [path for path in pictures if self._key(path) is not None]

    def others(self, pictures: Sequence[Path]) -> list[Path]:
        """What it names and is none of the pictures: they lie elsewhere, or nowhere."""
        there = {self._key(path) for path in pictures}
        return [Path(key) for key in self.captions if key not in there]

    def caption(self, picture: Path) -> Caption:
        words = self.captions[self._key(picture) or ""]
        if self.word_for_word:
            return Caption(words, self.path.name)
        first, *more = captions_in(words, self.lines)
        return Caption(first, self.path.name, more=tuple(more))

    def _key(self, picture: Path) -> str | None:
        whole = os.path.abspath(picture)
        return next((key for key in (whole, os.path.splitext(whole)[0]) if key in self.captions), None)


def caption_of(picture: Path, concept: Concept, class_picture: bool = False) -> Caption:
    """The caption of a concept's picture, from its metadata file or from beside it. UserError names the file.

    ``class_picture``: of one in its class_data_dir.
    """
    if concept.metadata_file.strip() and not class_picture:
        return MetadataFile.of(concept).caption(picture)
    return read_caption(picture, CaptionFiles.of(concept, class_picture))


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int, folder: str, lines: str, word_for_word: bool) -> MetadataFile:
    """``changed``: when the file was, so that it is read once for all of its pictures."""
    captions, words = {}, kohya.caption_of_entry if word_for_word else _words
    for key, entry in _entries(path).items():
        if not isinstance(entry, Mapping):
            raise UserError(f"{path}: {key!r} is no object with a caption or tags.")
        captions[os.path.abspath(os.path.join(folder, key))] = words(entry, lines)
    return MetadataFile(path, captions, lines, word_for_word)


def _entries(path: Path) -> dict[str, Any]:
    try:
        text = read_bounded(path, _LARGEST).decode("utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            return {str(row["image_path"]): row for row in rows}
        found = json.loads(text)
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is not the JSON of a metadata file ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no object that names pictures.")
    return found


def _words(entry: Mapping[str, Any], lines: str) -> str:
    """Caption and tags together; the tags behind each line, where a line is a caption."""
    caption, tags = str(entry.get("caption") or ""), str(entry.get("tags") or "")
    if lines == "joined":
        return ", ".join(filter(None, (caption, tags)))
    rows = [line for line in caption.splitlines() if line.strip()] or [""]
    return "\n".join(", ".join(filter(None, (row, tags.replace("\n", ", ")))) for row in rows)
