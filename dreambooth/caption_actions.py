"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.files import expand

if TYPE_CHECKING:
    from dreambooth.dataset.caption_edits import Plan
    from dreambooth.dataset.caption_files import CaptionFile, Captions
    from dreambooth.dataset.caption_writing import Written
    from dreambooth.settings.captions import Replacing, Scope

Progress = Callable[[int, int, str], None]


# -- captions -------------------------------------------------------------------------------------------------


def captions(path: str | Path, progress: Progress | None = None) -> Captions:
    """The captions of a folder, or of the one folder that a concepts list or configuration names."""
    from dreambooth.dataset.caption_files import read_captions

    return read_captions(captions_folder(path), progress)


def captions_folder(path: str | Path) -> Path:
    """The folder whose captions are meant. UserError where there are several."""
    from dreambooth.dataset.found import found_at

    if not str(path).strip():
        raise UserError("Give the folder with the pictures.")
    path = expand(str(path).strip())
    if not path.is_file():
        return path
    folders = sorted({concept.instance_data_dir for concept in found_at(path).concepts})
    if len(folders) != 1:
        raise UserError(f"{path}: names {len(folders)} folders. Give one of them: {', '.join(folders)}.")
    return expand(folders[0])


def find_in_captions(captions: Captions, options: Replacing, scope: Scope) -> list[CaptionFile]:
    """The captions in which something is found."""
    from dreambooth.dataset.caption_edits import matching

    return matching(captions, options, scope)


def plan_captions(captions: Captions, options: Any, scope: Scope) -> Plan:
    """What an edit would change; ``options``: one of those in settings/captions.py. Nothing is written."""
    from dreambooth.dataset.caption_edits import plan

    return plan(captions, options, scope)


def plan_caption(file: CaptionFile, text: str) -> Plan:
    """One caption as it was written by hand."""
    from dreambooth.dataset.caption_edits import plan_text

    return plan_text(file, text)


def write_captions(folder: Path, plan: Plan, progress: Progress | None = None) -> Written:
    """Carry out what was planned. UserError, and nothing is written, where a file changed since."""
    from dreambooth.dataset.caption_writing import write_changes

    return write_changes(folder, [planned.change for planned in plan.changes], plan.what, progress)


def undo_captions(folder: Path, progress: Progress | None = None) -> Written:
    """Take back the last edit of this folder's captions."""
    from dreambooth.dataset.caption_writing import undo

    return undo(folder, progress)


def redo_captions(folder: Path, progress: Progress | None = None) -> Written:
    """Do again what was taken back last."""
    from dreambooth.dataset.caption_writing import redo

    return redo(folder, progress)


def caption_history(folder: Path) -> list[dict[str, Any]]:
    """The edits of this folder's captions, newest first: what, when, how many files, and whether it is in effect."""
    from dreambooth.dataset.caption_journal import Journal

    journal = Journal(folder)
    done, going_to = journal.position()
    broken_off = journal.between(done, going_to)
    return [
        {
            "step": step.number,
            "when": step.when,
            "what": step.what,
            "files": step.files,
            "state": "broken off" if step.number == broken_off else "done" if step.number <= done else "undone",
        }
        for step in reversed(journal.steps())
    ]
