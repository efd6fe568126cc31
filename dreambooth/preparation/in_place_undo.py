"""Preparing in place: the originals are kept in a hidden folder beside the pictures, and come back when asked.

``.originals-DATE/`` holds ``undo.json`` (which files were moved, which made, with their sha256), ``old/`` and, while
the exchange goes on, ``new/``. It appears once every prepared picture is written; from then on files are only moved
within the folder, so that whoever is killed at any moment finds each original either at its place or in ``old/``.
Hidden, because every folder that can be seen among the pictures is trained on.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from dreambooth import files
from dreambooth.errors import UserError
from dreambooth.preparation.changes import Preparation
from dreambooth.preparation.output_folder import require_space, write
from dreambooth.types import ProgressCallback

KEPT, CHANGED = ".originals-", ".changed-"
_JOURNAL, _OLD, _NEW = "undo.json", "old", "new"


@dataclass(frozen=True)
class _Journal:
    """Paths below the pictures' folder."""

    moved: tuple[str, ...]
    made: dict[str, str]  # with their sha256, hex


@dataclass(frozen=True)
class Undone:
    """What an undo did."""

    restored: int
    removed: int
    set_aside: tuple[Path, ...]  # made files that were changed since: kept, at these paths


def replace_originals(preparation: Preparation, progress: ProgressCallback | None = None) -> Preparation:
    """Put the prepared pictures in the places of the originals; what was done.

    Until all are written nothing is moved, so that breaking off leaves everything as it was. UserError when a file is
    in the way. The folder must be settled (:func:`require_settled`).
    """
    folder = preparation.folder
    if not any(change.writes() for change in preparation.changes):
        return preparation
    files.clear_leftovers(folder)
    require_space(preparation)
    kept = _free(folder, KEPT)
    with files.atomic_folder(kept) as beside:
        done = write(preparation, beside / _NEW, progress)
        journal = _journal(done, beside / _NEW)
        _require_free_places(folder, journal)
        # Escaped, because names need not be text.
        files.write_text(beside / _JOURNAL, json.dumps({"moved": journal.moved, "made": journal.made}))
    try:
        _exchange(folder, kept, journal)
    except BaseException as error:
        undo(folder)
        if isinstance(error, OSError):
            raise files.as_user_error(error, folder) from error
        raise
    return replace(done, originals=kept / _OLD)


def undo(folder: Path) -> Undone:
    """Bring back the originals of the last preparation in place, whether it was finished or killed in its middle.

    What it made is removed; what was changed since, or stands at an original's place, is set aside into a hidden
    folder. UserError when there is nothing to undo.
    """
    kept = next(iter(sorted(_kept(folder), reverse=True)), None)
    if kept is None:
        raise UserError(f"{folder}: no preparation in place to undo (there is no {KEPT}DATE folder with originals).")
    journal, aside = _read(kept), _free(folder, CHANGED)
    set_aside, restored, removed, moved = [], 0, 0, set(journal.moved)
    try:
        for name, content in journal.made.items():
            path = folder / name
            never_moved_or_back = name in moved and not os.path.lexists(kept / _OLD / name)
            if never_moved_or_back or not os.path.lexists(path):
                continue
            if path.is_file() and files.content_hash(path) == content:
                path.unlink()
                removed += 1
            else:
                set_aside.append(_move(path, aside / name))
        for name in journal.moved:
            if not os.path.lexists(kept / _OLD / name):
                continue
            if os.path.lexists(folder / name):
                set_aside.append(_move(folder / name, aside / name))
            _move(kept / _OLD / name, folder / name)
            restored += 1
        if any(path.is_file() for path in (kept / _OLD).rglob("*")):
            raise UserError(
                f"{kept}: holds files that its list does not name. Look after them, then remove the folder."
            )
        shutil.rmtree(kept)
    except OSError as error:
        raise files.as_user_error(error, folder) from error
    return Undone(restored, removed, tuple(set_aside))


def _exchange(folder: Path, kept: Path, journal: _Journal) -> None:
    for name in journal.moved:
        _move(folder / name, kept / _OLD / name)
    for name in journal.made:
        _move(kept / _NEW / name, folder / name)
    shutil.rmtree(kept / _NEW)


def _move(path: Path, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(to):
        raise UserError(f"{to} is there already, and is not overwritten.")
    os.rename(path, to)
    return to


def _journal(done: Preparation, new: Path) -> _Journal:
    """Which originals leave their places, and what takes places: all of it in the order of the pictures."""
    copies = {copy for change in done.changes for copy in change.copies()}
    writes = [copy for change in done.changes for copy in change.writes()]
    staying = {source for source, to in copies - set(writes) if source == to}
    leaving = dict.fromkeys(source for source, _ in writes if source not in staying)
    names = dict.fromkeys(str(to.relative_to(done.folder)) for _, to in writes)
    return _Journal(
        moved=tuple(str(path.relative_to(done.folder)) for path in leaving),
        made={name: files.content_hash(new / name) for name in names},
    )


def _require_free_places(folder: Path, journal: _Journal) -> None:
    moved = set(journal.moved)
    in_the_way = [name for name in journal.made if name not in moved and os.path.lexists(folder / name)]
    if in_the_way:
        raise UserError.from_problems(
            [f"{folder / name} is in the way and is not overwritten. Nothing was changed." for name in in_the_way]
        )


def require_settled(folder: Path) -> None:
    """UserError when an earlier preparation of this folder was killed while files were moved."""
    for kept in _kept(folder):
        if any(path.is_file() for path in (kept / _NEW).rglob("*")):
            raise UserError(
                f"{folder}: an earlier preparation in place was broken off. Undo it first (prepare FOLDER --undo, or "
                "Undo last on the page): that brings the originals back."
            )


def _kept(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):  # unlike Path's, it takes any name
        return []
    return [path.parent for path in folder.glob(f"{KEPT}*/{_JOURNAL}")]


def _free(folder: Path, start: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = [f"{start}{stamp}", *(f"{start}{stamp}-{n:03}" for n in range(2, 1000))]
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def _read(kept: Path) -> _Journal:
    """The list of a preparation. UserError when it can't be one of ours: it decides what is removed."""
    found = files.read_json(kept / _JOURNAL)
    try:
        journal = _Journal(tuple(found["moved"]), dict(found["made"]))
        paths = [PurePath(name) for name in (*journal.moved, *journal.made)]
        if any(path.is_absolute() or ".." in path.parts for path in paths):
            raise ValueError("a path leads out of the folder")
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{kept / _JOURNAL}: is no list of a preparation ({error}). Look after {kept} yourself."
        ) from error
    return journal
