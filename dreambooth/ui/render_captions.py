"""HTML of captions: tags with counts, images with captions, preview of an edit.

Everything that comes from users is escaped here. javascript/dreambooth.js sends the data-db-pick and data-db-value of
what is clicked to the server.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dreambooth.text import count
from dreambooth.ui.render import lines

if TYPE_CHECKING:
    from dreambooth.captions.edits import EditPlan
    from dreambooth.captions.folder import CaptionFile

MAX_TAGS = 200
MAX_CHANGES = 50
_MAX_DIFF_LENGTH = 1500  # changes within longer captions are not marked: comparing them takes too long
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")


def tags(counts: Mapping[str, int], selected: Collection[str], part: str = "", by_name: bool = False) -> str:
    """The selected tags, then those that contain ``part``, as buttons with counts."""
    part = part.strip().casefold()
    found = [tag for tag in counts if part in tag.casefold() and tag not in selected]
    if by_name:
        found.sort(key=str.casefold)
    chips = "".join(_tag(tag, counts.get(tag, 0), tag in selected) for tag in (*selected, *found[:MAX_TAGS]))
    more = f"… and {len(found) - MAX_TAGS:,} more. Use the filter to find them." if len(found) > MAX_TAGS else ""
    none = "" if chips else "No tags." if not part else "No matching tags."
    return f'<div class="db_tags">{chips}</div>{lines(filter(None, [more, none]))}'


def _tag(tag: str, images: int, selected: bool) -> str:
    pressed = ' db_ticked" aria-pressed="true' if selected else '" aria-pressed="false'
    return (
        f'<button type="button" class="db_tag{pressed}" {_pick("tag", tag)}>'
        f"{html.escape(tag)} <small>{images:,}</small></button>"
    )


def images(
    files: Sequence[CaptionFile], indices: Sequence[int], uris: Sequence[str], opened: int | None, navigation: str
) -> str:
    """Thumbnails with captions. ``indices``: of the files, sent by a click; ``opened``: that in the editor."""
    figures = "".join(
        _figure(file, index, uri, index == opened) for file, index, uri in zip(files, indices, uris, strict=True)
    )
    return f'<div class="db_captioned_words">{navigation}</div><div class="db_captioned">{figures}</div>'


def navigation(visible: int, total: int, page: int, pages: int, is_filtered: bool) -> str:
    """How many images are shown, and buttons to the others."""
    images = f"{visible:,} of {count(total, 'image')}" if is_filtered else count(total, "image")
    parts = [
        _link("Show all", "all", "") if is_filtered else "",
        _link("‹ Previous", "page", page - 1) if page else "",
        f"page {page + 1:,} of {pages:,}" if pages > 1 else "",
        _link("Next ›", "page", page + 1) if page + 1 < pages else "",
    ]
    return " ".join([f"<span>{images}</span>", *filter(None, parts)])


def _link(label: str, kind: str, value: Any) -> str:
    return f'<button type="button" class="db_tag" {_pick(kind, value)}>{label}</button>'


def _figure(file: CaptionFile, index: int, uri: str, opened: bool) -> str:
    from dreambooth.captions.folder import preview_line

    name = html.escape(", ".join(image.name for image in file.images))
    image = f'<img src="{uri}" alt="{name}">' if uri else '<span class="db_no_picture">can’t be shown</span>'
    source = "" if file.data is not None else "<em>no caption file; from the file name: </em>"
    line = html.escape(preview_line(file.text))
    text = f'<span translate="no">{line}</span>' if line else "<em>empty</em>"
    css_class = " db_ticked" if opened else ""
    return (
        f'<button type="button" class="db_captioned_one{css_class}" title="{name}" {_pick("open", index)}>{image}'
        f"<b>{name}</b><span>{source}{text}</span></button>"
    )


def opened(file: CaptionFile, uri: str) -> str:
    """The image whose caption is in the editor."""
    name = html.escape(", ".join(image.name for image in file.images))
    image = f'<img src="{uri}" alt="{name}">' if uri else ""
    new = "" if file.data is not None else " (new file)"
    return f'<div class="db_opened">{image}<p><b>{name}</b><small>{html.escape(str(file.path))}{new}</small></p></div>'


def preview(plan: EditPlan) -> str:
    """The changes of an edit, file by file."""
    if not plan.changes:
        return lines([f"{plan.description}: nothing changes.", *plan.missing_tags])
    n = len(plan.changes)
    rows = "".join(map(_change, plan.changes[:MAX_CHANGES]))
    more = [f"… and {count(n - MAX_CHANGES, 'more file')}."] if n > MAX_CHANGES else []
    summary = lines([f"{plan.description}: {count(n, 'file')} would change. Nothing has been written yet."])
    return f'{summary}<div class="db_changes">{rows}</div>{lines(more)}'


def _change(planned: Any) -> str:
    from dreambooth.captions.folder import preview_line

    before, after = preview_line(planned.file.text), preview_line(planned.text)
    notes = f" <em>{html.escape(', '.join(planned.side_effects))}</em>" if planned.side_effects else ""
    old, new = _marked(before, after)
    return f"<p><b>{html.escape(planned.file.path.name)}</b>{notes}<span>{old}</span><span>{new}</span></p>"


def _marked(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML, with deletions and insertions marked."""
    if max(len(before), len(after)) > _MAX_DIFF_LENGTH:
        return html.escape(before), html.escape(after)
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    old_html, new_html = [], []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        deleted, inserted = html.escape("".join(old[i:j])), html.escape("".join(new[k:m]))
        old_html.append(f"<del>{deleted}</del>" if kind != "equal" and deleted else deleted)
        new_html.append(f"<ins>{inserted}</ins>" if kind != "equal" and inserted else inserted)
    return "".join(old_html), "".join(new_html)


def _pick(kind: str, value: Any) -> str:
    return f'data-db-pick="{kind}" data-db-value="{html.escape(str(value))}"'
