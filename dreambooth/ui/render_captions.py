"""Captions as HTML: tags with their counts, pictures with what is said of them, what an edit would change.

What people wrote is escaped here. What can be clicked carries data-db-pick and data-db-value, which
javascript/dreambooth.js tells the server.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dreambooth.ui.render import lines

if TYPE_CHECKING:
    from dreambooth.captions.edits import Plan
    from dreambooth.captions.folder import CaptionFile

MOST_TAGS = 200
MOST_CHANGES = 50
_LONGEST = 1500  # characters of a caption of which is shown what changes in it
_PIECES = re.compile(r"\w+|\s+|[^\w\s]")


def tags(counts: Mapping[str, int], ticked: Collection[str], part: str = "", by_name: bool = False) -> str:
    """Tags to be ticked: those that are, then those in which ``part`` stands."""
    part = part.strip().casefold()
    found = [tag for tag in counts if part in tag.casefold() and tag not in ticked]
    if by_name:
        found.sort(key=str.casefold)
    chips = "".join(_tag(tag, counts.get(tag, 0), tag in ticked) for tag in (*ticked, *found[:MOST_TAGS]))
    more = f"… and {len(found) - MOST_TAGS:,} more: search for them above." if len(found) > MOST_TAGS else ""
    none = "" if chips else "No tag." if not part else "No tag like that."
    return f'<div class="db_tags">{chips}</div>{lines(filter(None, [more, none]))}'


def _tag(tag: str, count: int, ticked: bool) -> str:
    chosen = ' db_ticked" aria-pressed="true' if ticked else '" aria-pressed="false'
    return (
        f'<button type="button" class="db_tag{chosen}" {_pick("tag", tag)}>'
        f"{html.escape(tag)} <small>{count:,}</small></button>"
    )


def pictures(
    files: Sequence[CaptionFile], numbers: Sequence[int], uris: Sequence[str], opened: int | None, words: str
) -> str:
    """``numbers``: what a click on each tells; ``words``: which ones they are."""
    figures = "".join(
        _figure(file, number, uri, number == opened) for file, number, uri in zip(files, numbers, uris, strict=True)
    )
    return f'<div class="db_captioned_words">{words}</div><div class="db_captioned">{figures}</div>'


def where(selected: int, total: int, page: int, pages: int, narrowed: bool) -> str:
    """How many pictures are shown, and the way to the others."""
    said = f"{selected:,} of {total:,} pictures" if narrowed else f"{total:,} {'picture' if total == 1 else 'pictures'}"
    turn = f"page {page + 1:,} of {pages:,}" if pages > 1 else ""
    buttons = [
        _link("Show all", "all", "") if narrowed else "",
        _link("‹ Back", "page", page - 1) if page else "",
        turn,
        _link("On ›", "page", page + 1) if page + 1 < pages else "",
    ]
    return " ".join([f"<span>{said}</span>", *filter(None, buttons)])


def _link(label: str, kind: str, value: Any) -> str:
    return f'<button type="button" class="db_tag" {_pick(kind, value)}>{label}</button>'


def _figure(file: CaptionFile, number: int, uri: str, opened: bool) -> str:
    from dreambooth.captions.folder import one_line

    name = html.escape(", ".join(picture.name for picture in file.pictures))
    image = f'<img src="{uri}" alt="{name}">' if uri else '<span class="db_no_picture">can’t be shown</span>'
    source = "" if file.data is not None else "<em>no caption file; from its name: </em>"
    chosen = " db_ticked" if opened else ""
    return (
        f'<button type="button" class="db_captioned_one{chosen}" title="{name}" {_pick("open", number)}>{image}'
        f"<b>{name}</b><span>{source}{html.escape(one_line(file.text)) or '<em>empty</em>'}</span></button>"
    )


def opened(file: CaptionFile, uri: str) -> str:
    """The picture whose caption is being edited."""
    name = html.escape(", ".join(picture.name for picture in file.pictures))
    image = f'<img src="{uri}" alt="{name}">' if uri else ""
    new = "" if file.data is not None else " (a new file)"
    return f'<div class="db_opened">{image}<p><b>{name}</b><small>{html.escape(str(file.path))}{new}</small></p></div>'


def preview(plan: Plan) -> str:
    """What would change, file by file."""
    if not plan.changes:
        return lines([f"{plan.what}: nothing changes.", *plan.missing])
    n = len(plan.changes)
    rows = "".join(map(_change, plan.changes[:MOST_CHANGES]))
    more = [f"… and {n - MOST_CHANGES:,} more files."] if n > MOST_CHANGES else []
    head = lines([f"{plan.what}: {n:,} {'file' if n == 1 else 'files'} would change. Nothing is written yet."])
    return f'{head}<div class="db_changes">{rows}</div>{lines(more)}'


def _change(planned: Any) -> str:
    from dreambooth.captions.folder import one_line

    before, after = one_line(planned.file.text), one_line(planned.text)
    notes = f" <em>{html.escape(', '.join(planned.notes))}</em>" if planned.notes else ""
    old, new = _marked(before, after)
    return f"<p><b>{html.escape(planned.file.path.name)}</b>{notes}<span>{old}</span><span>{new}</span></p>"


def _marked(before: str, after: str) -> tuple[str, str]:
    """Both texts, what goes struck out and what comes marked."""
    if max(len(before), len(after)) > _LONGEST:
        return html.escape(before), html.escape(after)
    old, new = _PIECES.findall(before), _PIECES.findall(after)
    goes, comes = [], []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = html.escape("".join(old[i:j])), html.escape("".join(new[k:m]))
        goes.append(f"<del>{gone}</del>" if kind != "equal" and gone else gone)
        comes.append(f"<ins>{come}</ins>" if kind != "equal" and come else come)
    return "".join(goes), "".join(comes)


def _pick(kind: str, value: Any) -> str:
    return f'data-db-pick="{kind}" data-db-value="{html.escape(str(value))}"'
