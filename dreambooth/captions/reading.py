"""Reading captions: from the caption file next to an image, its file name, or a default caption."""

from __future__ import annotations

import codecs
import errno
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions import kohya_rules as kohya
from dreambooth.captions.prompts import collapse_whitespace
from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded
from dreambooth.images.file_kinds import CAPTION_EXTENSIONS
from dreambooth.images.file_reader import drive_timeout

if TYPE_CHECKING:
    from dreambooth.settings import Concept

FROM_FILE_NAME, FROM_DEFAULT = "file name", "default"  # values of Caption.source
FILENAME = "[filename]"
MAX_BYTES = 2**20  # of a caption file: a larger file is not a caption, and could exhaust memory


@dataclass(frozen=True)
class CaptionSource:
    """Where a concept's captions come from; see the fields of :class:`Concept`."""

    extensions: tuple[str, ...] = CAPTION_EXTENSIONS
    default_caption: str = FILENAME  # for images without a caption file
    caption_lines: str = "joined"
    verbatim: bool = False  # as sd-scripts read them, see :mod:`dreambooth.captions.kohya_rules`

    @classmethod
    @functools.lru_cache(maxsize=64)
    def from_concept(cls, concept: Concept, class_images: bool = False) -> CaptionSource:
        """``class_images``: those in class_data_dir, where generated ones have their prompt in a .txt file.

        UserError for an impossible file extension.
        """
        given = [extension.strip() for extension in concept.caption_extension.split(",") if extension.strip()]
        wrong = [text for text in given if any(sign in text for sign in "/\\\0*?") or not text.strip(".")]
        if wrong:
            raise UserError(f"caption_extension: {wrong[0]!r} is not a file extension. Use .txt or .caption.")
        extensions = dict.fromkeys("." + text.lstrip(".") for text in (*given, *([".txt"] * class_images)))
        verbatim = concept.reading_rule == "kohya" and not class_images
        return cls(tuple(extensions), concept.default_caption, concept.caption_lines, verbatim)

    def find(self, image: Path) -> Path | None:
        """The existing caption file of an image; the first by extension if there are several."""
        if self.verbatim:
            paths = (kohya.caption_path(image, extension) for extension in self.extensions)
        else:  # .TXT too, from Windows
            stem = os.path.splitext(image)[0]
            paths = (stem + suffix for extension in self.extensions for suffix in (extension, extension.upper()))
        others = (path for path in map(Path, paths) if path != image)  # an image may be called .txt
        return next((path for path in others if os.path.exists(path)), None)  # also of names of any length


@dataclass(frozen=True, slots=True)
class Caption:
    """The caption of an image."""

    text: str  # one line; with CaptionSource.verbatim all lines
    source: str  # name of the caption file, FROM_FILE_NAME or FROM_DEFAULT
    warning: str = ""  # about the file's encoding or emptiness; names the file
    alternatives: tuple[str, ...] = ()  # further captions, if each line of the file is one


def read_caption(image: Path, source: CaptionSource = CaptionSource()) -> Caption:
    """The caption of an image: its caption file, else the default caption, usually from its file name.

    A caption file is UTF-8 (with or without a byte order mark), or UTF-16 or UTF-32 with one; anything else is read
    as Windows-1252, with a warning. Of a file name, leading digits, hyphens and underscores are removed (they number
    the images), and underscores become spaces: "03_a_red-hat.png" gives "a red-hat".
    UserError for a caption file that can't be read or is not text.
    """
    path = source.find(image)
    data = None if path is None else read_caption_bytes(path)
    if path is None or data is None:
        default = source.default_caption
        text = re.sub(re.escape(FILENAME), lambda _: _text_of_file_name(image), default, flags=re.IGNORECASE)
        kind = FROM_FILE_NAME if FILENAME in default.lower() else FROM_DEFAULT
        return Caption(text if source.verbatim else collapse_whitespace(text), kind)
    text, warning = decode_caption(data, path)
    if not text.strip():
        warning = f"{path}: the caption file is empty."
    if source.verbatim:
        return Caption(kohya.caption_of_text(text, source.caption_lines), path.name, warning)
    first, *alternatives = split_captions(text, source.caption_lines)
    return Caption(first, path.name, warning, tuple(alternatives))


def read_caption_bytes(path: Path) -> bytes | None:
    """The bytes of a caption file; None if it does not exist. UserError when it can't be read or is not a file."""
    try:
        with drive_timeout(path):
            return read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path.name}: the name is too long for the disk. Shorten the image's name.") from error
        raise as_user_error(error, path, "read") from error


def split_captions(text: str, caption_lines: str) -> list[str]:
    """The captions of a text by the setting ``caption_lines``: the whole text, its first line, or each line.

    At least one, which may be empty.
    """
    if caption_lines == "joined":
        return [collapse_whitespace(text)]
    captions = [collapse_whitespace(line) for line in text.splitlines() if line.strip()] or [""]
    return captions[:1] if caption_lines == "first" else captions


def _text_of_file_name(image: Path) -> str:
    # Names that are not UTF-8 (from old archives) contain surrogates, which no tokenizer takes.
    stem = os.fsencode(image.stem).decode("utf-8", errors="replace")
    return re.sub(r"^[\d\s_-]+", "", stem).replace("_", " ")


def decode_caption(data: bytes, path: Path) -> tuple[str, str]:
    """(text of a caption file, warning about its encoding or ""). UserError for a file that is not text."""
    text, warning = _decode(data, path)
    if "\0" in text:
        raise UserError(f"{path}: is not a text file. Save the caption as UTF-8 text.")
    return text, warning


def _decode(data: bytes, path: Path) -> tuple[str, str]:
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16, whose mark is a prefix of it
        return data.decode("utf-32", errors="replace"), ""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), ""
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        return text, f"{path}: is not UTF-8, read as Windows-1252. If the caption looks wrong, save it as UTF-8."
