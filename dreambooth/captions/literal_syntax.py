"""What in a caption is syntax of WebUIs, or damaged text: training takes it as plain words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

_NETWORK = re.compile(r"<(?:lora|lyco|lycoris|hypernet|embedding)\s*:[^<>\n]*>", re.IGNORECASE)
_KEYWORD = re.compile(r"(?<![\w-])(?:BREAK|ADDCOMM|ADDROW|ADDCOL|ADDBASE)(?![\w-])|(?<=[\w,)])\s+AND\s+(?=[\w(])")
_WILDCARD_FILE = re.compile(r"(?<!\w)__[A-Za-z0-9*][\w./*-]{0,100}?__(?!\w)")
_CHOICE = re.compile(r"\{[^{}|\n]*\|[^{}\n]*\}")
_DYNAMIC_CHOICE = re.compile(r"\{\s*[\d.:-]{0,20}\$\$[^{}\n]*\}|\{\s*[\d.]{1,20}::[^{}\n]*\}")
_NUMBER = r"[+-]?\d{0,9}(?:\.\d{1,9}|\d)\s*"  # bounded, so that long texts take no quadratic time
_WEIGHT = re.compile(rf"(?<!\\)\([^()\n]*:\s*{_NUMBER}(?<!\\)\)|(?<!\\)\(\([^()\n]+(?<!\\)\)\)")
_SCHEDULE = re.compile(rf"(?<!\\)\[[^\[\]\n]*:\s*{_NUMBER}\]|(?<!\\)\[[^\[\]|\n]*\|[^\[\]\n]*\]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_REPLACEMENT = "\ufffd"


def webui_syntax(caption: str, weighted: bool, wildcards: bool) -> Iterator[str]:
    """Parts that WebUIs act on and training takes literally.

    ``weighted``: (word:1.2) has an effect here. ``wildcards``: {a|b} has one.
    """
    shouted = caption.upper() == caption  # then AND and BREAK are just words
    patterns = [
        _NETWORK,
        *([] if shouted else [_KEYWORD]),
        _WILDCARD_FILE,
        _DYNAMIC_CHOICE if wildcards else _CHOICE,
        _SCHEDULE,
        *([] if weighted else [_WEIGHT]),
    ]
    for pattern in patterns:
        yield from (match[0].strip() for match in pattern.finditer(caption))


def damaged_text(caption: str) -> Iterator[str]:
    """Traces of wrong conversions: replacement characters, and HTML entities."""
    if _REPLACEMENT in caption:
        yield _REPLACEMENT
    yield from (match[0] for match in _ENTITY.finditer(caption) if html.unescape(match[0]) != match[0])
