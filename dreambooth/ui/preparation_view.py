"""How a preparation is shown: what becomes of each picture, what is skipped and why. All of it escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.ui import render

if TYPE_CHECKING:
    from dreambooth.preparation.changes import Change, Preparation
    from dreambooth.preparation.previews import Preview

COLUMNS = {
    "Picture": lambda row: Path(row["file"]).name,
    "becomes": lambda row: Path(row["becomes"]).name,
    "with": lambda row: ", ".join(row["with"]),
    "Size": lambda row: " × ".join(map(str, row["size"])),
    "New size": lambda row: " × ".join(map(str, row["new_size"])),
    "Kept": lambda row: f"{row['kept']:.0%}",
    "What is done": lambda row: row["done"],
}


def outcome(preparation: Preparation, previews: Sequence[tuple[Change, Preview]] = (), dry: bool = False) -> str:
    """What would be done (``dry``), or was done."""
    said = [summary(preparation, dry)]
    if preparation.originals:
        said.append(f"The originals are kept in {preparation.originals}; Undo last brings them back.")
    return readable(
        render.lines(said)
        + render.warnings([*preparation.skipped, *preparation.warnings])
        + _before_after(previews)
        + render.table(COLUMNS, preparation.as_dict()["changes"])
    )


def summary(preparation: Preparation, dry: bool = False) -> str:
    """In one line."""
    counts = preparation.counts()
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    where = "in place" if preparation.options.in_place else f"in {preparation.out}"
    start = "Dry run, nothing is written" if dry else "Prepared"
    done = f"{counts['pictures']} pictures {where}, {counts['changed']} of them written anew{skipped}"
    return readable(f"{start}: {done}.")


def undone(told: dict) -> str:
    """What an undo did."""
    lines = [f"Undone: {told['restored']} originals are back, {told['removed']} prepared files are removed."]
    if told["set_aside"]:
        lines.append(f"Changed since, so kept aside: {', '.join(told['set_aside'])}")
    return readable(render.lines(lines))


def readable(text: str) -> str:
    """Names need not be text; what a browser is sent must be."""
    return text.encode("utf-8", "backslashreplace").decode()


def _before_after(previews: Sequence[tuple[Change, Preview]]) -> str:
    figures = "".join(
        f"<figure>{_image(preview.before, 'before')}{_image(preview.after, 'after') if change.recipe.anew else ''}"
        f"<figcaption>{html.escape(change.destination.name)}</figcaption></figure>"
        for change, preview in previews
    )
    return f'<div class="db_before_after">{figures}</div>' if figures else ""


def _image(jpeg: bytes, what: str) -> str:
    return f'<img alt="{what}" title="{what}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
