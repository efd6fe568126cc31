r"""JSON as people write it: paths with single backslashes are read as they are meant, other errors are explained.

``"D:\Training\new"`` is not what it says to a JSON parser: ``\T`` is an error, and ``\n`` a line break. But no path
has line breaks or tabs, and no other text is meant by a backslash that starts no escape. Where a string could be meant
in two ways it is left alone.
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Callable
from typing import Any

from dreambooth.errors import UserError
from dreambooth.text import escape_unprintable

log = logging.getLogger("dreambooth")

# A path of Windows with a drive or server. It can't contain a quote, so \" is a backslash at its end.
_DRIVE_PATH = re.compile(r'(?<!\\)"([A-Za-z]:\\[^"\r\n]*|\\\\(?!\\)[^"\r\n]*)"')
_UNESCAPED_PATH = re.compile(r'(?<!\\)"([A-Za-z]:\\(?!\\)[^"\r\n]*)"')
_STRING = re.compile(r'"((?:[^"\\\r\n]|\\[^\r\n])*)"')
_ESCAPE = re.compile(r'\\(?:[\\"/bfnrt]|u[0-9a-fA-F]{4})')
_SINGLE = re.compile(r"\\\\|(\\)")  # a pair, or a single backslash
_COMMENT = re.compile(r"\s*(?://|/\*|#)")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def decode_json(data: bytes, what: str, by_hand: bool = False) -> Any:
    """The value of JSON in bytes: UTF-8, or UTF-16 and UTF-32 with a byte order mark. ``what`` it is, for messages.

    ``by_hand``: people write such files, so single backslashes in paths are expected.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{what} is not UTF-8 text (line {line}): save it as UTF-8, or choose another file.") from error
    return parse_json(text, what, by_hand)


def parse_json(text: str, what: str, by_hand: bool = False) -> Any:
    """The value of JSON text. UserError with the line and the fix when it is not valid."""
    changed: list[str] = []
    literal = _with_literal_backslashes(text, changed) if by_hand and "\\" in text else text
    try:
        value = json.loads(literal)
    except RecursionError as error:
        raise UserError(f"{what} is not valid JSON (nested too deeply): correct or replace the file.") from error
    except ValueError as error:
        raise UserError(f"{what} is not valid JSON: {_explanation(literal, error)}") from error
    if changed:
        log.warning(
            "%s: single backslashes were read as part of the text (%s). JSON needs / or \\\\ instead of \\ in paths.",
            what, ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else ""),
        )  # fmt: skip
    return value


def _with_literal_backslashes(text: str, changed: list[str]) -> str:
    """The text with single backslashes doubled where they are meant literally; ``changed`` gets where that was."""

    def change(pattern: re.Pattern[str], literal: Callable[[str], str], text: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            fixed = literal(match[1])
            if fixed != match[1]:
                line = text.count("\n", 0, match.start()) + 1
                changed.append(f"line {line}: {escape_unprintable(match[1])}")
            return f'"{fixed}"'

        return pattern.sub(replaced, text)

    text = change(_UNESCAPED_PATH, _literal_path, text)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        text = change(_STRING, _literal_text, change(_DRIVE_PATH, _literal_path, text))
    return text


def _literal_path(raw: str) -> str:
    r"""A path between quotes as valid JSON. ``D:\\x`` and ``\\\\server\\x`` are, but for single backslashes in them."""
    is_share = raw.startswith("\\\\")
    if is_share and not any(match[1] for match in _SINGLE.finditer(raw)):
        return raw  # \\folder\\sub is a folder on the current drive
    is_escaped = not is_share and raw[2:4] == "\\\\"
    body = raw[2:] if is_share else raw

    def double(match: re.Match[str]) -> str:
        if not match[1]:
            return match[0]
        following = raw[len(raw) - len(body) + match.end() :][:5]
        if is_escaped and (following[:1] == "/" or re.match("u[0-9a-fA-F]{4}", following)):
            return match[0]
        return "\\\\"

    return ("\\\\\\\\" if is_share else "") + _SINGLE.sub(double, body)


def _literal_text(raw: str) -> str:
    """The content of a string. One with an invalid escape was written without escapes, apart from those of quotes."""
    if not re.search(r"\\", _ESCAPE.sub("", raw)):
        return raw
    return re.sub(r'\\(?:[\\"]|)', lambda match: match[0] if len(match[0]) == 2 else "\\\\", raw)


def _explanation(text: str, error: ValueError) -> str:
    """Where the error is and how to correct it."""
    if not isinstance(error, json.JSONDecodeError):
        return f"{error}. Correct or replace the file."
    place, before, after = f"line {error.lineno}", text[: error.pos].rstrip(), text[error.pos :]
    if not text.strip():
        return "it is empty. Write it again, or replace the file."
    if _COMMENT.match(after):
        return f"{place} has a comment, which JSON does not allow. Remove it."
    if before.endswith(",") and after[:1] in ("]", "}"):
        return f"{place}: the comma after the last entry is one too many. Remove it."
    if error.msg.startswith("Illegal trailing comma"):  # Python 3.13
        return f"{place}: the comma after the last entry is one too many. Remove it."
    if after[:1] == "'":
        return f"{place} uses single quotes. Write names and texts in double quotes."
    if error.msg.startswith("Invalid control character"):
        return f"{place} has a line break or tab inside a text. Write \\n or \\t, or close the quotes before it."
    shown = escape_unprintable(text.splitlines()[min(error.lineno, text.count(chr(10)) + 1) - 1].strip()[:80])
    return f"{error.msg} at {place}, column {error.colno} ({shown}). Correct or replace the file."
