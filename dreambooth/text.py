"""Numbers and sizes in words, for people."""

from __future__ import annotations


def count(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 image", "2 images". ``plural`` for nouns that do not only take an s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
