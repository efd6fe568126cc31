"""Table of images as text, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.cli.truncation import MAX_ITEMS, truncated

Row = Mapping[str, Any]
_MAX_CELL = 200  # characters of a name or caption
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "image": lambda row: Path(row["path"]).name,
    "kind": lambda row: row["kind"],
    "size": lambda row: "x".join(map(str, row.get("size", ()))),
    "bucket": lambda row: "x".join(map(str, row.get("bucket", ()))),
    "kept area": lambda row: f"{row['kept']:.0%}" if "kept" in row else "",
    "repeats": lambda row: str(row.get("repeats", "")),
    "tokens": lambda row: str(row.get("tokens", "")),
    "caption": lambda row: " | ".join(row.get("captions", ())),
}


def image_table(images: Sequence[Row], other_files: Sequence[Row]) -> str:
    """One line per image, then one per other file; each is followed by its warnings."""
    rows = [*images[:MAX_ITEMS], *other_files[:MAX_ITEMS]]
    cells = [[*_COLUMNS], *([truncated(text(row), _MAX_CELL) for text in _COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[-1] = 0  # no padding after the last column
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    warnings = [[], *([f"    ! {truncated(warning)}" for warning in row["warnings"]] for row in rows)]
    more = [
        f"… and {len(rows) - MAX_ITEMS:,} more {what} (--json has all)"
        for rows, what in ((images, "images"), (other_files, "other files"))
        if len(rows) > MAX_ITEMS
    ]
    return "\n".join([*(text for line, own in zip(lines, warnings, strict=True) for text in (line, *own)), *more])
