"""Captions word for word as kohya's sd-scripts read them and part them.

Beside our own rule nothing is tidied: white space inside and empty tags stay, a bracket holds nothing together, and
what stands before and after a caption of several lines belongs to its first and its last one. Written after what
sd-scripts do (commit 48d368f), so that an imported configuration is trained with the same words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Only these are pictures there; in capitals too, and on Windows in any case.
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".PNG", ".JPG", ".JPEG", ".WEBP", ".BMP"})

_FILEWORDS = re.compile(r"\[filewords\]", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_WILDCARD = re.compile(r"\{([^}]+)\}")
_OPEN, _CLOSE = "\0<", "\0>"  # {{ and }}, while wildcards are looked for
_FACE = 4  # numbers at the end of a name that say where the face is


def is_picture(path: Path) -> bool:
    return os.path.normcase(path.suffix) in PICTURES


def caption_file(picture: Path, ending: str) -> Path:
    """The file beside it; of NAME_1_2_3_4, where there is none, that of NAME."""
    own = picture.with_suffix(ending)
    parts = picture.stem.split("_")
    if len(parts) > _FACE and not os.path.isfile(own):
        return picture.with_name("_".join(parts[:-_FACE]) + ending)
    return own


def caption_of_text(text: str, lines: str) -> str:
    """What counts of a caption file: its first line, even an empty one, or (``lines`` random) each that is not."""
    rows = [row.strip() for row in _LINE_END.split(text)]
    if lines == "first":
        return rows[0]
    return ("\n" if lines == "random" else " ").join(filter(None, rows))


def caption_of_entry(entry: Mapping[str, Any], lines: str) -> str:
    """Caption and tags of a metadata file's entry: the tags behind all, or (random) behind each line that is not empty.

    So a picture that has tags alone is trained with an empty caption where each line is one.
    """
    caption, tags = str(entry.get("caption") or ""), entry.get("tags")
    if lines == "random" and tags is not None:
        behind = str(tags).replace("\n", ",")
        return "\n".join(f"{row},{behind}" for row in caption.split("\n") if row.strip())
    return f"{caption},{tags}" if caption and tags else caption or str(tags or "")


def prompts(template: str, caption: str, lines: str) -> list[str]:
    """The texts that showings draw from; the template's words go around the whole of a caption of several lines."""
    whole = _FILEWORDS.sub(lambda _: caption, template or "[filewords]")
    rows = whole.split("\n")
    if lines == "joined":
        return [" ".join(rows)]
    return rows if lines == "random" else rows[:1]


def filled(text: str, choose: Callable[[list[str], int], str]) -> str:
    """The text with one part of each wildcard: ``choose(parts, where it stands)``."""
    hidden = text.replace("{{", _OPEN).replace("}}", _CLOSE)
    chosen = _WILDCARD.sub(lambda match: choose(match[1].split("|"), match.start()), hidden)
    return chosen.replace(_OPEN, "{").replace(_CLOSE, "}")


def parted(text: str, keep: int, separator: str) -> tuple[list[str], list[str], list[str]]:
    """The tags that stay at the start, those that may move, those that stay at the end."""
    if separator and separator in text:
        first, loose, last, *_ = (*text.split(separator, 2), "")
        return _said(first), _said(loose), _said(last)
    tags = [tag.strip() for tag in text.split(",")]
    return tags[:keep], tags[keep:], []


def _said(part: str) -> list[str]:
    return [tag for tag in map(str.strip, part.split(",")) if tag]
