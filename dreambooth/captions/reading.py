"""Reading captions: from the caption file next to an image, its file name, or a default caption."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.captions import kohya_rules as kohya
from dreambooth.captions.encodings import recognize_text
from dreambooth.captions.prompts import collapse_whitespace
from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded
from dreambooth.images.file_kinds import CAPTION_EXTENSIONS
from dreambooth.images.file_reader import drive_timeout

if TYPE_CHECKING:
    from dreambooth.settings import Concept

FROM_FILE_NAME, FROM_DEFAULT = "file name", "default"  # values of Caption.source
FILENAME = "[filename]"
_USUAL_EXTENSIONS = (".txt", ".caption", ".tags", ".tag", ".cap")
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

    def find_unread(self, images: Iterable[Path]) -> dict[Path, Path]:
        """Caption files with other extensions, of images that have none with the right one. Lists each folder once."""
        if not self.extensions:  # caption files are not used
            return {}
        usual = [ending for extension in _USUAL_EXTENSIONS for ending in (extension, extension.upper())]
        names: dict[Path, set[str]] = {}
        found = {}
        for image in images:
            if image.parent not in names:
                with contextlib.suppress(OSError):
                    names[image.parent] = set(os.listdir(image.parent))
            candidates = (image.with_suffix(ending) for ending in usual)
            others = (path for path in candidates if path != image and path.name in names.get(image.parent, ()))
            other = next(others, None)
            if other and not self.find(image):
                found[image] = other
        return found


@dataclass(frozen=True, slots=True)
class Caption:
    """The caption of an image."""

    text: str  # one line; with CaptionSource.verbatim all lines
    source: str  # name of the caption file, FROM_FILE_NAME or FROM_DEFAULT
    encoding: str = ""  # of the caption file, where it is not Unicode
    is_file_empty: bool = False
    alternatives: tuple[str, ...] = ()  # further captions, if each line of the file is one


def read_caption(image: Path, source: CaptionSource = CaptionSource()) -> Caption:
    """The caption of an image: its caption file, a metadata.jsonl, or the default, usually from its file name.

    A caption file is UTF-8 (with or without a byte order mark), or UTF-16 or UTF-32 with one. Other encodings are
    recognized where they are certain (:mod:`dreambooth.captions.encodings`). Of a file name, leading digits, hyphens
    and underscores are removed (they number the images), and underscores become spaces: "03_a_red-hat.png" gives
    "a red-hat". UserError for a caption file that can't be read, is not text, or whose encoding is uncertain.
    """
    path = source.find(image)
    data = None if path is None else read_caption_bytes(path)
    if path is None or data is None:
        if source.extensions and not source.verbatim and (listed := _listed_caption(image, source.caption_lines)):
            return listed
        default = source.default_caption
        text = re.sub(re.escape(FILENAME), lambda _: _text_of_file_name(image), default, flags=re.IGNORECASE)
        kind = FROM_FILE_NAME if FILENAME in default.lower() else FROM_DEFAULT
        return Caption(text if source.verbatim else collapse_whitespace(text), kind)
    text, encoding = decode_caption(data, path)
    is_empty = not text.strip()
    if source.verbatim:
        return Caption(kohya.caption_of_text(text, source.caption_lines), path.name, encoding, is_empty)
    first, *alternatives = split_captions(text, source.caption_lines)
    return Caption(first, path.name, encoding, is_empty, tuple(alternatives))


def _listed_caption(image: Path, caption_lines: str) -> Caption | None:
    from dreambooth.captions.folder_metadata import caption_near  # which reads captions itself

    return caption_near(image, caption_lines)


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
    """(text of a caption file, its encoding if it is not Unicode with a mark or UTF-8, else "").

    UserError for a file that is not text, and for one whose encoding is uncertain: it would be trained as garbage.
    """
    text = _decode_unicode(data)
    if text is not None and "\0" not in text:
        return text, ""
    text, encoding, possible = recognize_text(data)
    if text:
        return text, encoding
    if b"\0" in data:
        raise UserError(f"{path}: is not a text file. Save the caption as UTF-8 text.")
    guess = f" (it may be {' or '.join(possible)})" if possible else ""
    raise UserError(f"{path}: is not UTF-8, and its encoding can't be recognized{guess}. Save it as UTF-8.")


def encoding_note(path: Path, encoding: str) -> str:
    """A message for a caption file whose encoding was recognized; "" for Unicode."""
    return f"{path}: is not UTF-8, read as {encoding}. If the text looks wrong, save it as UTF-8." if encoding else ""


def _decode_unicode(data: bytes) -> str | None:
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16, whose mark is a prefix of it
        return data.decode("utf-32", errors="replace")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
