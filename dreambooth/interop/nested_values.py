"""Values of a nested configuration by dotted names ("unet.learning_rate"), with the defaults of its program."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "none", "null", "")


class NestedValues:
    """Reads values and remembers which were read, so that what nothing has read can be reported."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """``defaults``: by dotted name; what has none here is None."""
        self._given = _flatten(values)
        self._defaults = defaults
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether the file sets this value. A null is as if it were not there."""
        return self._given.get(name) is not None

    def get(self, name: str) -> Any:
        """The value in the file, or the program's default."""
        self._read.add(name)
        value = self._given.get(name)
        return self._defaults.get(name) if value is None else value

    def flag(self, name: str) -> bool:
        """The value as true or false; what is neither has the default's value."""
        text = str(self.get(name)).strip().lower()
        return text in _YES or (text not in _NO and bool(self._defaults.get(name)))

    def number(self, name: str) -> float:
        """The value as a number; what is none has the default's value."""
        for value in (self.get(name), self._defaults.get(name)):
            number = as_number(value)
            if number is not None:
                return number
        return 0.0

    def word(self, name: str) -> str:
        """The value as a word in capitals, such as the name of a choice."""
        value = self.get(name)
        return "" if value is None else str(value).strip().upper()

    def text(self, name: str) -> str:
        value = self.get(name)
        return "" if value is None else str(value).strip()

    def source(self, name: str) -> str:
        """The name for a message about a value that the file sets; "" for a default."""
        return name if name in self else ""

    def skip(self, names: Iterable[str]) -> None:
        """Mark values as read."""
        self._read.update(names)

    def unread(self) -> dict[str, Any]:
        """Values in the file that nothing has read, without those that equal the default."""
        return {
            name: value
            for name, value in self._given.items()
            if name not in self._read and value is not None and value != self._defaults.get(name, ...)
        }


def as_number(value: Any) -> float | None:
    """A finite number, also from text such as 1e-4, which YAML does not take for a number; None for anything else."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def describe_ignored(names: Iterable[str]) -> str:
    """A message for keys without an effect on what is trained; the first of them are named."""
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{', '.join(listed[:_SHOWN])}{more}: no effect on the trained weights, so not imported."


_SHOWN = 8


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[str(key)] = value
    return flat
