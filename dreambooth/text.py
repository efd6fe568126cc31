"""Numbers, sizes and similar names in words, for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters, line and paragraph separators, changes of direction, and undecodable bytes of file names.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def count(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 image", "2 images". ``plural`` for nouns that do not only take an s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def with_article(title: str) -> str:
    """``title`` after "a" or "an", by its first letter."""
    return f"{'an' if title[:1].lower() in 'aeiou' else 'a'} {title}"


def format_bytes(n_bytes: float) -> str:
    """A size with its decimal unit: "850 kB", "12 MB", "3.4 GB"."""
    if n_bytes >= 0.95e9:
        return f"{n_bytes / 1e9:.1f} GB"
    if 0 < n_bytes < 0.95e6:
        return f"{max(1, round(n_bytes / 1e3))} kB"
    return f"{n_bytes / 1e6:.2g} MB" if n_bytes < 9.5e6 else f"{n_bytes / 1e6:.0f} MB"


def format_duration(seconds: float) -> str:
    """A duration as 3:10 or 1:02:03."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def printable(text: str) -> str:
    """``text`` as valid Unicode: bytes of a file name that are not UTF-8 are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def escape_unprintable(text: object) -> str:
    """A path or other text on one line: line breaks, changes of direction and undecodable bytes become escapes."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), str(text))


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """ " (did you mean X?)", or "" if no name is similar; ``cutoff``: the least similarity, up to 1."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]}?)" if close else ""
