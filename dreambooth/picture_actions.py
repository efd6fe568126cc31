"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.files import expand

if TYPE_CHECKING:
    from dreambooth.dataset.preparation import Change, Preparation
    from dreambooth.dataset.prepared_previews import Preview
    from dreambooth.settings.preparing import Preparing

Progress = Callable[[int, int, str], None]


def prepare(
    folder: str | Path, options: Preparing, *, dry_run: bool = False, progress: Progress | None = None
) -> Preparation:
    """Prepare the pictures of a folder as chosen; a dry run only says what would be done.

    Originals are not touched, unless ``options.in_place``: then they are kept, see :func:`undo_preparation`.
    """
    from dreambooth.dataset.originals import replace_originals, require_settled
    from dreambooth.dataset.prepared_files import into_new_folder
    from dreambooth.dataset.preparing import plan

    if not str(folder).strip():
        raise UserError("The folder is empty: give the one with the pictures.")
    require_settled(expand(folder))
    planned = plan(expand(folder), options, progress)
    if dry_run:
        return planned
    return (replace_originals if options.in_place else into_new_folder)(planned, progress)


def preview_preparation(preparation: Preparation, count: int) -> list[tuple[Change, Preview]]:
    """Before and after of its first pictures; those that can't be read any more are left out."""
    from dreambooth.dataset.prepared_previews import preview

    previews = []
    for change in preparation.changes[:count]:
        with contextlib.suppress(UserError):
            previews.append((change, preview(change, preparation.options)))
    return previews


def undo_preparation(folder: str | Path) -> dict[str, Any]:
    """Bring back the originals of the last preparation in place."""
    from dreambooth.dataset.originals import undo

    undone = undo(expand(folder))
    return {
        "restored": undone.restored,
        "removed": undone.removed,
        "set_aside": [str(path) for path in undone.set_aside],
    }
