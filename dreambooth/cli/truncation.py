"""What a person reads of long lists and long texts: the first of it, and how much more there is. --json has all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dreambooth.images.issues import named

T = TypeVar("T")

SHOWN = 200  # of a list
LONGEST = 400  # characters of one thing in it


def shown(items: Sequence[T], text: Callable[[T], str] = str, most: int = SHOWN) -> list[str]:
    """A line for each of the first, and one for the rest."""
    more = [f"… and {len(items) - most:,} more (--json has all)"] if len(items) > most else []
    return [*map(text, items[:most]), *more]


def line(text: object, longest: int = LONGEST) -> str:
    """On one line that a terminal can show: names and captions may hold line breaks, escape codes, whole books."""
    said = named(str(text)[: longest + 1])
    return said if len(said) <= longest else f"{said[: longest - 1]}…"
