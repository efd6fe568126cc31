"""Declaration, validation and parsing of settings.

A setting is a dataclass field made by :func:`setting`: its name is the key in db_config.json, its annotation the type.
Range, choices, label, help and the condition under which it applies are in the :class:`Setting` in the field's
metadata. Controls, validation, the command line and the documentation are generated from it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from dreambooth.errors import UserError
from dreambooth.paths import clean_text
from dreambooth.settings.names import output_name_problem
from dreambooth.settings.other_names import unknown_key, value_advice

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_META = "setting"
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Declaration of one setting. ``low`` and ``high`` are inclusive; ``choices`` lists all allowed values."""

    key: str
    type: type
    default: Any
    group: str
    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: Sequence[Any] = dataclasses.field(default=(), hash=False)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)  # alias, as of _spelling: choice
    applies: str = ""  # condition on other settings under which it has an effect, e.g. "use_lora"
    advanced: bool = False
    file_list: str = ""  # list of files that the page offers (ui/file_choices.py); a path is accepted too
    file_name: bool = False  # the name of saved files, without folder and extension; empty is allowed
    path: bool = False  # a path, or a name in place of one: cleaned of what pasting adds
    secret: bool = False  # hidden while it is typed, and never saved
    tab: str = "Settings"  # tab of the page: Settings, Saving or Select

    def applies_to(self, values: Mapping[str, Any]) -> bool:
        """Whether it has an effect with these settings."""
        return not self.applies or bool(eval(self.applies, {"__builtins__": {}}, dict(values)))

    def depends_on(self) -> set[str]:
        """The settings that decide whether this one has an effect."""
        return set(compile(self.applies or "True", self.key, "eval").co_names)

    def parse(self, value: Any) -> Any:
        """``value`` converted to this setting's type; ValueError with a readable reason if it is invalid."""
        value = _convert(self.type, value)
        if self.path:
            value = clean_text(value)
        if self.file_name:
            value = value.strip()
            if value and (problem := output_name_problem(value)):
                raise ValueError(problem)
        value = self.aliases.get(_spelling(value), value) if self.aliases else value
        if self.choices and value not in self.choices:
            same = [choice for choice in self.choices if _spelling(choice) == _spelling(value)]
            if not same:
                raise ValueError(f"{value!r} is not one of: {', '.join(map(str, self.choices))}")
            value = same[0]
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise ValueError(f"{value} is outside the range {_number(self.low)} to {_number(self.high)}")
        return value


def setting(default: Any, group: str, label: str, help: str, **more: Any) -> Any:
    """A dataclass field that declares a setting; ``more`` holds further fields of :class:`Setting`."""
    meta = {_META: {"group": group, "label": label, "help": help, **more}}
    return dataclasses.field(default=default, metadata=meta)


def declared(cls: type) -> dict[str, Setting]:
    """All settings that a dataclass declares, in order of declaration."""
    types = get_type_hints(cls)
    return {
        field.name: Setting(key=field.name, type=types[field.name], default=field.default, **field.metadata[_META])
        for field in dataclasses.fields(cls)
        if _META in field.metadata
    }


def by_group(settings: list[Setting]) -> list[tuple[str, list[Setting]]]:
    """Settings by group, groups in the order of their first setting."""
    order = {group: number for number, group in reversed(list(enumerate(s.group for s in settings)))}
    ordered = sorted(settings, key=lambda s: order[s.group])
    return [(group, list(members)) for group, members in groupby(ordered, key=lambda s: s.group)]


def parse(cls: type[T], values: Mapping[str, Any], base: T | None = None, where: str = "") -> T:
    """``base`` (or the defaults), updated with ``values``.

    Raises:
        UserError: with one line for each invalid value and unknown key.
    """
    settings, parsed, problems = declared(cls), {}, []
    for key, value in values.items():
        if key not in settings:
            problems.append(f"{where}{key}: there is no such setting{unknown_key(key, settings)}.")
            continue
        try:
            parsed[key] = settings[key].parse(value)
        except ValueError as error:
            problems.append(f"{where}{key} ({settings[key].label}): {error}{value_advice(key, value)}.")
    if problems:
        raise UserError.from_problems(problems)
    return dataclasses.replace(base, **parsed) if base is not None else cls(**parsed)


def _spelling(value: Any) -> str:
    """Without what people write in different ways: capitals, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", str(value)).lower()


def _convert(kind: type, value: Any) -> Any:
    if kind is bool:
        return _as_bool(value)
    if kind is str:
        return _as_text(value)
    if value is None or value == "":
        raise ValueError("a number is missing")
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    if kind is int:
        if number != int(number):
            raise ValueError(f"{value!r} is not a whole number")
        return int(number)
    return number


def _as_bool(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _as_text(value: Any) -> str:
    """Numbers become text; a list or an object is not text."""
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]} is not text")
    text = "" if value is None else str(value)
    try:
        valid = b"\0" not in os.fsencode(text)  # a path may contain undecodable bytes, as surrogate escapes
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise ValueError("contains an invalid character")
    return text


def _number(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"
