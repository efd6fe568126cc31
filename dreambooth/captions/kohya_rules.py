"""Captions exactly as kohya's sd-scripts read and split them.

Unlike our own rule, nothing is normalized: inner white space and empty tags stay, brackets do not protect commas, and
the caption prefix and suffix of a caption of several lines belong to its first and last line. Follows sd-scripts at
commit 48d368f, so that an imported configuration trains the same text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dreambooth.captions.prompts import FILEWORDS, fill_filewords

# The only image formats of sd-scripts, in lower or upper case; on Windows in any case.
IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".PNG", ".JPG", ".JPEG", ".WEBP", ".BMP"})

_LINE_END = re.compile(r"\r\n|\r|\n")
_WILDCARD = re.compile(r"\{([^}]+)\}")
_OPEN, _CLOSE = "\0<", "\0>"  # stand for {{ and }} while wildcards are searched
_N_FACE_NUMBERS = 4  # numbers at the end of a name that give the position of the face


def is_image(path: Path) -> bool:
    return os.path.normcase(path.suffix) in IMAGE_EXTENSIONS


def caption_path(image: Path, extension: str) -> Path:
    """The caption file of an image; for NAME_1_2_3_4 without one, that of NAME."""
    path = image.with_suffix(extension)
    parts = image.stem.split("_")
    if len(parts) > _N_FACE_NUMBERS and not os.path.isfile(path):
        return image.with_name("_".join(parts[:-_N_FACE_NUMBERS]) + extension)
    return path


def caption_of_text(text: str, caption_lines: str) -> str:
    """The caption of a file's text: its first line, even an empty one, or ("random") all lines that are not empty."""
    lines = [line.strip() for line in _LINE_END.split(text)]
    if caption_lines == "first":
        return lines[0]
    return ("\n" if caption_lines == "random" else " ").join(filter(None, lines))


def caption_of_entry(entry: Mapping[str, Any], caption_lines: str) -> str:
    """Caption and tags of a metadata file's entry: tags are appended to the whole caption, or ("random") to each line.

    With "random", an image that only has tags is trained with an empty caption.
    """
    caption, tags = str(entry.get("caption") or ""), entry.get("tags")
    if caption_lines == "random" and tags is not None:
        appended = str(tags).replace("\n", ",")
        return "\n".join(f"{line},{appended}" for line in caption.split("\n") if line.strip())
    return f"{caption},{tags}" if caption and tags else caption or str(tags or "")


def prompts(template: str, caption: str, caption_lines: str) -> list[str]:
    """The prompts to choose from each time the image is used; the template is filled with the caption of all lines."""
    text = fill_filewords(template or FILEWORDS, caption)
    lines = text.split("\n")
    if caption_lines == "joined":
        return [" ".join(lines)]
    return lines if caption_lines == "random" else lines[:1]


def fill_wildcards(text: str, choose: Callable[[list[str], int], str]) -> str:
    """The text with each wildcard replaced by ``choose(its options, its position)``."""
    escaped = text.replace("{{", _OPEN).replace("}}", _CLOSE)
    filled = _WILDCARD.sub(lambda match: choose(match[1].split("|"), match.start()), escaped)
    return filled.replace(_OPEN, "{").replace(_CLOSE, "}")


def split_fixed_tags(text: str, keep_tokens: int, separator: str) -> tuple[list[str], list[str], list[str]]:
    """(fixed tags at the start, tags that may be shuffled and dropped, fixed tags at the end)."""
    if separator and separator in text:
        first, loose, last, *_ = (*text.split(separator, 2), "")
        return _non_empty_tags(first), _non_empty_tags(loose), _non_empty_tags(last)
    tags = [tag.strip() for tag in text.split(",")]
    return tags[:keep_tokens], tags[keep_tokens:], []


def _non_empty_tags(text: str) -> list[str]:
    return [tag for tag in map(str.strip, text.split(",")) if tag]
