"""HTML of a preparation: changes of each image, skipped files and why. File names are escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.text import count, printable
from dreambooth.ui import render

if TYPE_CHECKING:
    from dreambooth.preparation.changes import ImageChange, Preparation
    from dreambooth.preparation.previews import Preview

COLUMNS = {
    "Image": lambda row: Path(row["file"]).name,
    "New name": lambda row: Path(row["becomes"]).name,
    "Caption, mask": lambda row: ", ".join(row["with"]),
    "Size": lambda row: " × ".join(map(str, row["size"])),
    "New size": lambda row: " × ".join(map(str, row["new_size"])),
    "Kept area": lambda row: f"{row['kept']:.0%}",
    "Changes": lambda row: row["done"],
}


def result(preparation: Preparation, previews: Sequence[tuple[ImageChange, Preview]] = (), dry: bool = False) -> str:
    """What was done, or would be done (``dry``)."""
    lines = [summary(preparation, dry)]
    if preparation.originals:
        lines.append(f"The originals are in {preparation.originals}. Undo last restores them.")
    return printable(
        render.lines(lines)
        + render.warnings([*preparation.skipped, *preparation.warnings])
        + _before_after(previews)
        + render.table(COLUMNS, preparation.as_dict()["changes"])
    )


def summary(preparation: Preparation, dry: bool = False) -> str:
    """The result in one line."""
    counts = preparation.counts()
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    where = "in place" if preparation.options.in_place else f"in {preparation.out}"
    images, changed = count(counts["pictures"], "image"), f"{counts['changed']} re-encoded{skipped}"
    if dry:
        return printable(f"Dry run: {images} would be saved {where}, {changed}. Nothing was written.")
    return printable(f"Prepared: {images} {where}, {changed}.")


def undone(report: Mapping[str, Any]) -> str:
    """What an undo did."""
    restored, removed = count(report["restored"], "original"), count(report["removed"], "prepared file")
    lines = [f"Undone: restored {restored}, removed {removed}."]
    if report["set_aside"]:
        lines.append(f"Changed since the preparation, so moved aside instead: {', '.join(report['set_aside'])}")
    return printable(render.lines(lines))


def _before_after(previews: Sequence[tuple[ImageChange, Preview]]) -> str:
    figures = "".join(_figure(change, preview) for change, preview in previews)
    return f'<div class="db_before_after">{figures}</div>' if figures else ""


def _figure(change: ImageChange, preview: Preview) -> str:
    after = _image(preview.after, "after") if change.transform.reencode else ""
    caption = html.escape(change.destination.name)
    return f"<figure>{_image(preview.before, 'before')}{after}<figcaption>{caption}</figcaption></figure>"


def _image(jpeg: bytes, what: str) -> str:
    return f'<img alt="{what}" title="{what}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
