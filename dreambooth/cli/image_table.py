"""Pictures as a table of text, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.cli.truncation import SHOWN, line

Row = Mapping[str, Any]
_WIDEST = 200  # characters of a name or caption
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "picture": lambda row: Path(row["path"]).name,
    "kind": lambda row: row["kind"],
    "size": lambda row: "x".join(map(str, row.get("size", ()))),
    "bucket": lambda row: "x".join(map(str, row.get("bucket", ()))),
    "kept": lambda row: f"{row['kept']:.0%}" if "kept" in row else "",
    "repeats": lambda row: str(row.get("repeats", "")),
    "tokens": lambda row: str(row.get("tokens", "")),
    "caption": lambda row: " | ".join(row.get("captions", ())),
}


def image_table(pictures: Sequence[Row], others: Sequence[Row]) -> str:
    """A line for each picture, then for each other file, and below it what is to be known of it."""
    rows = [*pictures[:SHOWN], *others[:SHOWN]]
    cells = [[*_COLUMNS], *([line(text(row), _WIDEST) for text in _COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[-1] = 0  # the last column may be as wide as it is
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    told = [[], *([f"    ! {line(warning)}" for warning in row["warnings"]] for row in rows)]
    more = [
        f"… and {len(rows) - SHOWN:,} more {what} (--json has all)"
        for rows, what in ((pictures, "pictures"), (others, "other files"))
        if len(rows) > SHOWN
    ]
    return "\n".join([*(text for one, notes in zip(lines, told, strict=True) for text in (one, *notes)), *more])
