"""Lists of ``name=value`` arguments, in every spelling in which sd-scripts' users write them.

``betas=(0.9, 0.99), eps=1e-6``; ``decouple=True weight_decay=0.01 betas=0.9,0.99``; a list with one argument per row; a
table; any of them in quotes or brackets, or with the name of the parameter before it (``--optimizer_args``).
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"(?<![\w.=/\\-])([A-Za-z_]\w*)[\"'“”‘’]?\s*(?<![<>!=])=(?!=)\s*")
_PARAMETER = re.compile(r"^\s*(--)?(optimizer|network|lr_scheduler)_args\s*=?(?=[\s\"'\[{(])\s*")
_AROUND = "\"'“”‘’ \t\r\n,;"
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None, "null": None}
_INFINITE = re.compile(
    r"[+-]?(?:(?:math|np|numpy|torch)\.)?inf(?:inity)?|float\(['\"]inf(?:inity)?['\"]\)", re.IGNORECASE
)


def split_arguments(value: Any) -> tuple[dict[str, str], list[str]]:
    """The arguments as text, by name, and what is not of the form name=value. Of equal names the last one counts."""
    if value is None or isinstance(value, bool):
        return {}, []
    if isinstance(value, Mapping):
        return {str(name): _as_text(item) for name, item in value.items()}, []
    if isinstance(value, (list, tuple)):
        found: dict[str, str] = {}
        rest: list[str] = []
        for row in value:
            arguments, others = split_arguments(row)
            found |= arguments
            rest += others
        return found, rest
    return _split_text(str(value))


def parse_value(text: str) -> Any:
    """A number, True, False, None, or a tuple of them. ValueError for anything else."""
    text = unicodedata.normalize("NFKC", text).strip(_AROUND)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INFINITE.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    parts = [part.strip(_AROUND) for part in re.split(r"[\s,;]+", text.strip("()[]{} \t")) if part.strip(_AROUND)]
    if not parts:
        raise ValueError("a value is missing")
    values = [parse_value(part) if part.lower() in _WORDS else _number(part) for part in parts]
    return tuple(values) if len(values) > 1 or text[0] in "([" else values[0]


def format_arguments(arguments: Mapping[str, Any]) -> str:
    """The arguments as one text, as the setting optimizer_args has them."""
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def parse_arguments(value: Any) -> tuple[dict[str, Any], list[str]]:
    """:func:`split_arguments` with parsed values; arguments with an invalid value are among the others."""
    arguments, rest = split_arguments(value)
    parsed = {}
    for name, text in arguments.items():
        try:
            parsed[name] = parse_value(text)
        except ValueError:
            rest.append(f"{name}={text}")
    return parsed, rest


def _split_text(text: str) -> tuple[dict[str, str], list[str]]:
    text = _PARAMETER.sub("", unicodedata.normalize("NFKC", text)).strip()
    structured = _structured(text)
    if structured is not None:
        return split_arguments(structured)
    if text[:1] in "([{" and text[-1:] in ")]}":
        text = text[1:-1]
    names = list(_NAME.finditer(text))
    starts = [match.start() for match in names] + [len(text)]
    before = text[: starts[0]].strip(_AROUND)
    found, rest = {}, [before] if before and before.lower() not in _WORDS else []
    for match, end in zip(names, starts[1:], strict=True):
        found[match[1]] = text[match.end() : end].strip(_AROUND)
    return found, rest


def _structured(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or table that the text holds in the syntax of Python or JSON, if it does."""
    if text[:1] not in ("[", "{", '"', "'"):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, (list, dict)):
            return value
    return None


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if math.isnan(number):
        raise ValueError(f"{text!r} is not a number")
    return number
