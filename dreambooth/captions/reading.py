"""Captions and the prompts made of them."""

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
from dreambooth.errors import UserError
from dreambooth.files import as_user_error, read_bounded
from dreambooth.images.file_reader import drive_timeout
from dreambooth.images.listing import CAPTION_EXTENSIONS

if TYPE_CHECKING:
    from dreambooth.settings import Concept

FILE_NAME, DEFAULT = "file name", "default"
FILENAME = "[filename]"
FILEWORDS = "[filewords]"
MOST_BYTES = 2**20  # of a caption file: what is larger is no caption, and would fill the memory

# A letter or digit of a script that puts spaces between words. Chinese, Japanese and Korean don't (or
# glue particles on), so a token in them counts wherever it stands.
_WORD = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_ARTICLE = r"(?:\b(?:an?|the)\s+)?"


@dataclass(frozen=True)
class CaptionFiles:
    """Where a concept's captions come from, see the fields of :class:`Concept`."""

    endings: tuple[str, ...] = CAPTION_EXTENSIONS
    otherwise: str = FILENAME
    lines: str = "joined"
    word_for_word: bool = False  # see :mod:`dreambooth.captions.kohya_rules`

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, concept: Concept, class_pictures: bool = False) -> CaptionFiles:
        """``class_pictures``: of those in its class_data_dir, where drawn ones have their captions in a .txt.

        Raises UserError for an ending that no file can have.
        """
        given = [ending.strip() for ending in concept.caption_extension.split(",") if ending.strip()]
        odd = [ending for ending in given if any(sign in ending for sign in "/\\\0*?") or not ending.strip(".")]
        if odd:
            raise UserError(f"caption_extension: {odd[0]!r} is no file's ending. Write it as .txt or .caption.")
        endings = dict.fromkeys("." + ending.lstrip(".") for ending in (*given, *([".txt"] * class_pictures)))
        verbatim = concept.reading_rule == "kohya" and not class_pictures
        return cls(tuple(endings), concept.default_caption, concept.caption_lines, verbatim)

    def file_of(self, picture: Path) -> Path | None:
        """The caption file that lies beside a picture, whatever it is; of several, the first by its ending."""
        if self.word_for_word:
            paths = (kohya.caption_file(picture, ending) for ending in self.endings)
        else:  # .TXT too, from Windows
            stem = os.path.splitext(picture)[0]
            paths = (stem + each for ending in self.endings for each in (ending, ending.upper()))
        return next((Path(path) for path in paths if os.path.exists(path)), None)  # also of names of any length


@dataclass(frozen=True, slots=True)
class Caption:
    """What is known about a picture in words."""

    text: str  # one line; where captions are read word for word, all that may be drawn
    source: str  # name of the caption file, FILE_NAME or DEFAULT
    note: str = ""  # what a person should know about how it was read; names the file
    more: tuple[str, ...] = ()  # other captions of it, where each line of the file is one


def read_caption(picture: Path, kept: CaptionFiles = CaptionFiles()) -> Caption:
    """The caption of a picture: the file beside it, else as ``kept`` says, usually its file name.

    A caption file is UTF-8 (with or without a byte order mark), UTF-16 or UTF-32 with one; anything else is read
    as Windows-1252 and noted. From a file name, leading digits, hyphens and underscores go (they number
    the pictures), and underscores become spaces: "03_a_red-hat.png" says "a red-hat".
    Raises UserError for a caption file that can't be read or is no text.
    """
    path = kept.file_of(picture)
    data = None if path is None else bytes_of(path)
    if path is None or data is None:
        words = re.sub(re.escape(FILENAME), lambda _: _name_of(picture), kept.otherwise, flags=re.IGNORECASE)
        source = FILE_NAME if FILENAME in kept.otherwise.lower() else DEFAULT
        return Caption(words if kept.word_for_word else _one_line(words), source)
    text, note = decode_text(data, path)
    if not text.strip():
        note = f"{path}: the caption file is empty."
    if kept.word_for_word:
        return Caption(kohya.caption_of_text(text, kept.lines), path.name, note)
    first, *more = captions_in(text, kept.lines)
    return Caption(first, path.name, note, tuple(more))


def bytes_of(path: Path) -> bytes | None:
    """What a caption file holds now; None where there is none. UserError for what can't be read or is no such file."""
    try:
        with drive_timeout(path):
            return read_bounded(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path.name}: the disk takes no such long name. Shorten its picture's.") from error
        raise as_user_error(error, path, "read") from error


def captions_in(text: str, lines: str) -> list[str]:
    """The captions that a text holds, at least one: all of it, its first line, or each of its lines."""
    if lines == "joined":
        return [_one_line(text)]
    found = [_one_line(line) for line in text.splitlines() if line.strip()] or [""]
    return found[:1] if lines == "first" else found


def _name_of(picture: Path) -> str:
    # Bytes that are no UTF-8 (names out of old archives) reach Python as something no tokenizer takes.
    stem = os.fsencode(picture.stem).decode("utf-8", errors="replace")
    return re.sub(r"^[\d\s_-]+", "", stem).replace("_", " ")


def decode_text(data: bytes, path: Path) -> tuple[str, str]:
    """(a caption file's text, what a person should know about how it was read). UserError for what is no text."""
    text, note = _decode(data, path)
    if "\0" in text:
        raise UserError(f"{path}: is no text. Save the caption as UTF-8 text.")
    return text, note


def _decode(data: bytes, path: Path) -> tuple[str, str]:
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16, whose mark begins alike
        return data.decode("utf-32", errors="replace"), ""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), ""
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        return text, f"{path}: is not UTF-8, read as Windows-1252. If the caption looks wrong, save as UTF-8."


def build_prompt(template: str, caption: str, instance_token: str, class_token: str, is_class: bool) -> str:
    """The prompt that a picture is trained with.

    1. `[filewords]` in the template, in any case, becomes the caption. An empty template is "[filewords]".
    2. In the prompt of an instance picture the instance token stands exactly once. Where it is missing, it is
       put before the first class token, which stays ("a dog runs" -> "a sks dog runs"), as in the paper's "a [V]
       [class noun]": what is known of dogs goes on counting for this one. A token that holds the class word
       ("sks dog") takes its place; without a class token it is put in front ("runs" -> "sks, runs").
    3. The prompt of a class picture never holds the instance token: it goes where a class token stands
       elsewhere, else becomes the class token. A class token that is still missing is put in front.
    4. A comma-separated part that only repeats the class token goes.
    5. White space and empty parts between commas go; backslashes stay ("name_\\(film\\)").

    Tokens match as whole words in any case, and literally. The class word inside an instance token
    ("sks dog") is part of that token, not a class token. An empty token has no rule.
    """
    instance_token, class_token = _one_line(instance_token), _one_line(class_token)
    template = template.strip() or "[filewords]"
    prompt = re.sub(r"\[filewords\]", lambda _: caption, template, flags=re.IGNORECASE)
    if is_class:
        prompt = _class_prompt(prompt, instance_token, class_token)
    elif instance_token:
        prompt = _instance_prompt(prompt, instance_token, class_token)
    return _tidy(prompt, class_token)


def is_filled_in(template: str, caption: str, class_token: str) -> bool:
    """Whether a class picture's caption already is its whole prompt, as beside pictures that were drawn from it.

    The template stands in it then, with anything for [filewords]; the class token may have been put in front.
    """
    parts = re.split(re.escape(FILEWORDS), _one_line(template) or FILEWORDS, flags=re.IGNORECASE)
    pattern = ".*".join(re.escape(part.strip(" ,")) for part in parts)
    without = caption.removeprefix(f"{_one_line(class_token)}, ") if class_token else caption
    return any(re.fullmatch(pattern, text, re.IGNORECASE) for text in (caption, without))


def holds(prompt: str, token: str) -> bool:
    """Whether the token stands in the prompt, as whole words in any case."""
    return bool(_pattern(_one_line(token)).search(prompt))


def _instance_prompt(prompt: str, instance_token: str, class_token: str) -> str:
    first = _pattern(instance_token).search(prompt)
    if first:
        return prompt[: first.end()] + _without(instance_token, prompt[first.end() :])
    named = class_token and _pattern(class_token).search(prompt)
    if named:
        holds_it = _pattern(class_token).search(instance_token)
        after = prompt[named.end() :] if holds_it else " " + prompt[named.start() :]
        return prompt[: named.start()] + instance_token + after
    return f"{instance_token}, {prompt}"


def _class_prompt(prompt: str, instance_token: str, class_token: str) -> str:
    if instance_token:
        rest = _without(instance_token, prompt)
        stands_elsewhere = class_token and _pattern(class_token).search(rest)
        if stands_elsewhere or not class_token:
            prompt = rest
        else:
            prompt = _pattern(instance_token).sub(lambda _: class_token, prompt)
    if class_token and not _pattern(class_token).search(prompt):
        prompt = f"{class_token}, {prompt}"
    return prompt


def _without(token: str, prompt: str) -> str:
    """The prompt without the token, and without its article where that would be left alone."""
    word = _pattern(token).pattern
    return re.sub(rf"{_ARTICLE}{word}(?=\s*(?:,|$))|{word}", "", prompt, flags=re.IGNORECASE)


def _tidy(prompt: str, class_token: str) -> str:
    parts = [_one_line(part) for part in prompt.split(",")]
    kept: list[str] = []
    for part in filter(None, parts):
        repeats = class_token and part.casefold() == class_token.casefold()
        if not (repeats and _pattern(class_token).search(", ".join(kept))):
            kept.append(part)
    return ", ".join(kept)


@functools.lru_cache(maxsize=64)
def _pattern(token: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in token.split())
    # Only an edge that is a letter or digit needs a boundary: "name_\(film\)" ends by itself.
    before = rf"(?<!{_WORD})" if re.match(_WORD, token) else ""
    after = rf"(?!{_WORD})" if re.match(_WORD, token[-1]) else ""
    return re.compile(f"{before}{words}{after}", re.IGNORECASE)


def _one_line(text: str) -> str:
    return " ".join(text.split())
