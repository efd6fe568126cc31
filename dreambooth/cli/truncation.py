"""Truncation of long lists and texts for a terminal. --json prints everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dreambooth.text import escape_unprintable

T = TypeVar("T")

MAX_ITEMS = 200  # of a list
MAX_LENGTH = 400  # characters of one item


def first_lines(items: Sequence[T], text: Callable[[T], str] = str, limit: int = MAX_ITEMS) -> list[str]:
    """One line for each of the first items, and one with the number of items left out."""
    more = [f"… and {len(items) - limit:,} more (--json has all)"] if len(items) > limit else []
    return [*map(text, items[:limit]), *more]


def truncated(text: object, length: int = MAX_LENGTH) -> str:
    """``text`` on one line, without escape codes and cut off after ``length`` characters."""
    line = escape_unprintable(str(text)[: length + 1])
    return line if len(line) <= length else f"{line[: length - 1]}…"
