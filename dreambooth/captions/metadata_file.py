"""JSON metadata files with the captions of many images, as kohya's fine-tuning scripts write them.

An object with a key for each image (its path, or its name within the folder, with or without extension) and
``caption`` and ``tags`` as values; or, as .jsonl, a line with ``image_path`` and these keys for each image.
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
from dreambooth.captions.reading import Caption, CaptionSource, read_caption, split_captions
from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded
from dreambooth.paths import clean_path

if TYPE_CHECKING:
    from dreambooth.settings import Concept

_MAX_BYTES = 2**28  # a million images with long captions


@dataclass(frozen=True)
class MetadataFile:
    """The captions of a metadata file, for images in one folder."""

    path: Path
    captions: Mapping[str, str]  # by absolute path, with or without extension
    caption_lines: str
    verbatim: bool = False  # as sd-scripts read them

    @classmethod
    def from_concept(cls, concept: Concept) -> MetadataFile:
        """Read a concept's metadata file. UserError names what is wrong with it."""
        path = clean_path(concept.metadata_file)
        try:
            modified = path.stat().st_mtime_ns
        except OSError as error:
            raise UserError(f"metadata_file: {path} can't be read ({error.strerror or error}).") from error
        folder = os.path.abspath(clean_path(concept.instance_data_dir))
        return _read(path, modified, folder, concept.caption_lines, concept.reading_rule == "kohya")

    def listed(self, images: Sequence[Path]) -> list[Path]:
        """The images that the file has captions for."""
        return [path for path in images if self._key(path) is not None]

    def not_among(self, images: Sequence[Path]) -> list[Path]:
        """Paths of the file that are none of these images: they are elsewhere, or missing."""
        found = {self._key(path) for path in images}
        return [Path(key) for key in self.captions if key not in found]

    def caption(self, image: Path) -> Caption:
        text = self.captions[self._key(image) or ""]
        if self.verbatim:
            return Caption(text, self.path.name)
        first, *alternatives = split_captions(text, self.caption_lines)
        return Caption(first, self.path.name, alternatives=tuple(alternatives))

    def _key(self, image: Path) -> str | None:
        path = os.path.abspath(image)
        return next((key for key in (path, os.path.splitext(path)[0]) if key in self.captions), None)


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
    captions, join = {}, kohya.caption_of_entry if verbatim else _join_caption_and_tags
    for key, entry in _entries(path).items():
        if not isinstance(entry, Mapping):
            raise UserError(f"{path}: the value of {key!r} is not an object with caption or tags.")
        captions[os.path.abspath(os.path.join(folder, key))] = join(entry, caption_lines)
    return MetadataFile(path, captions, caption_lines, verbatim)


def _entries(path: Path) -> dict[str, Any]:
    try:
        text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            return {str(row["image_path"]): row for row in rows}
        entries = json.loads(text)
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a metadata file ({error}).") from error
    if not isinstance(entries, dict):
        raise UserError(f"{path} is not a metadata file (a JSON object with image paths as keys).")
    return entries


def _join_caption_and_tags(entry: Mapping[str, Any], caption_lines: str) -> str:
    """Caption and tags, joined by a comma; where each line is a caption, the tags are appended to each."""
    caption, tags = str(entry.get("caption") or ""), str(entry.get("tags") or "")
    if caption_lines == "joined":
        return ", ".join(filter(None, (caption, tags)))
    lines = [line for line in caption.splitlines() if line.strip()] or [""]
    return "\n".join(", ".join(filter(None, (line, tags.replace("\n", ", ")))) for line in lines)
