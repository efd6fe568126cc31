"""How one setting is declared, checked and read from text.

A setting is a dataclass field made by :func:`setting`: its name is the key in db_config.json, its annotation the
type, the rest of what anyone needs to know of it (range, choices, label, help, when it applies) is in the
:class:`Setting` that the field carries. Controls, validation, the command line and the documentation read that.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from dreambooth.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_META = "setting"
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclasses.dataclass(frozen=True)
class Setting:
    """The one declaration of one setting. ``low`` and ``high`` are inclusive; ``choices`` are all that is allowed."""

    key: str
    type: type
    default: Any
    group: str
    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[Any, ...] = ()
    applies: str = ""  # when it has an effect, as a condition on other settings, e.g. "use_lora"
    advanced: bool = False
    listed: str = ""  # which list of files a page offers for it (ui/file_choices.py); a path may be given too
    secret: bool = False  # not shown while it is typed, and kept nowhere
    tab: str = "Settings"  # where the page shows it: Settings, Saving or Select

    def applies_to(self, values: Mapping[str, Any]) -> bool:
        """Whether it has an effect beside these settings."""
        return not self.applies or bool(eval(self.applies, {"__builtins__": {}}, dict(values)))

    def depends_on(self) -> set[str]:
        """The settings that decide whether this one has an effect."""
        return set(compile(self.applies or "True", self.key, "eval").co_names)

    def parse(self, value: Any) -> Any:
        """``value`` as this setting's type and within its range; ValueError in words otherwise."""
        value = _convert(self.type, value)
        if self.choices and value not in self.choices:
            same = [choice for choice in self.choices if str(choice).lower() == str(value).lower()]
            if not same:
                raise ValueError(f"{value!r} is none of: {', '.join(map(str, self.choices))}")
            value = same[0]
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise ValueError(f"{value} is outside {_number(self.low)} to {_number(self.high)}")
        return value


def setting(default: Any, group: str, label: str, help: str, **more: Any) -> Any:
    """A dataclass field that declares a setting (see :class:`Setting` for what ``more`` may hold)."""
    meta = {_META: {"group": group, "label": label, "help": help, **more}}
    return dataclasses.field(default=default, metadata=meta)


def declared(cls: type) -> dict[str, Setting]:
    """All settings that a dataclass declares, in the order of its lines."""
    types = get_type_hints(cls)
    return {
        field.name: Setting(key=field.name, type=types[field.name], default=field.default, **field.metadata[_META])
        for field in dataclasses.fields(cls)
        if _META in field.metadata
    }


def by_group(settings: list[Setting]) -> list[tuple[str, list[Setting]]]:
    """Settings by their group, groups in the order of their first setting."""
    order = {group: number for number, group in reversed(list(enumerate(s.group for s in settings)))}
    ordered = sorted(settings, key=lambda s: order[s.group])
    return [(group, list(members)) for group, members in groupby(ordered, key=lambda s: s.group)]


def parse(cls: type[T], values: Mapping[str, Any], base: T | None = None, where: str = "") -> T:
    """``base`` (or the defaults) with ``values`` laid over it.

    Raises:
        UserError: with one line for each wrong value or unknown name, all of them at once.
    """
    known, parsed, problems = declared(cls), {}, []
    for key, value in values.items():
        if key not in known:
            problems.append(f"{where}{key}: there is no such setting{nearest(key, known)}.")
            continue
        try:
            parsed[key] = known[key].parse(value)
        except ValueError as error:
            problems.append(f"{where}{key} ({known[key].label}): {error}.")
    if problems:
        raise UserError.several(problems)
    return dataclasses.replace(base, **parsed) if base is not None else cls(**parsed)


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean X?)", or nothing when no name comes near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


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
    """Numbers are taken as they are written; what holds several values was meant otherwise."""
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]} is not a text")
    text = "" if value is None else str(value)
    try:
        whole = b"\0" not in os.fsencode(text)  # a path may hold bytes of no script, as the system tells them
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise ValueError("holds a character that is no text")
    return text


def _number(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"
