"""Preparation in place: the originals are moved to a hidden folder next to the images, and undo restores them.

``.originals-DATE/`` contains ``undo.json`` (moved and created files, with the sha256 of the latter), ``old/`` and,
during the exchange, ``new/``. It appears once every prepared image is written; from then on files are only moved
within the folder, so that after a kill at any moment each original is at its path or in ``old/``. The folder is hidden
because visible subfolders are trained on.
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
from dreambooth.preparation.output_folder import require_space, write_prepared_files
from dreambooth.types import ProgressCallback

ORIGINALS, SET_ASIDE = ".originals-", ".changed-"  # prefixes of folders
_UNDO_LIST, _OLD, _NEW = "undo.json", "old", "new"


@dataclass(frozen=True)
class _UndoList:
    """Paths relative to the image folder."""

    moved: tuple[str, ...]
    created: dict[str, str]  # with their sha256, hex


@dataclass(frozen=True)
class UndoResult:
    """The outcome of an undo."""

    restored: int
    removed: int
    set_aside: tuple[Path, ...]  # created files that were edited since, and files at an original's path; moved here


def replace_originals(preparation: Preparation, progress: ProgressCallback | None = None) -> Preparation:
    """Replace the originals by the prepared images; the finished preparation.

    Nothing is moved until all images are written, so that cancelling leaves everything as it was. UserError when a
    file is in the way. No earlier preparation may be interrupted (:func:`require_no_interrupted`).
    """
    folder = preparation.folder
    if not any(change.writes() for change in preparation.changes):
        return preparation
    files.clear_leftovers(folder)
    require_space(preparation)
    originals = _unused_folder(folder, ORIGINALS)
    with files.atomic_folder(originals) as temporary:
        done = write_prepared_files(preparation, temporary / _NEW, progress)
        undo_list = _make_undo_list(done, temporary / _NEW)
        _require_free_paths(folder, undo_list)
        # ASCII JSON, because names may not be valid text.
        content = json.dumps({"moved": undo_list.moved, "made": undo_list.created})
        files.write_text(temporary / _UNDO_LIST, content)
    try:
        _exchange(folder, originals, undo_list)
    except BaseException as error:
        undo(folder)
        if isinstance(error, OSError):
            raise files.as_user_error(error, folder) from error
        raise
    return replace(done, originals=originals / _OLD)


def undo(folder: Path) -> UndoResult:
    """Restore the originals of the last preparation in place, whether it was finished or killed.

    Created files are removed. Files that were edited since, or that are at an original's path, are moved to a hidden
    folder. UserError when there is nothing to undo.
    """
    originals = next(iter(sorted(_originals_folders(folder), reverse=True)), None)
    if originals is None:
        raise UserError(f"{folder}: no preparation in place to undo (there is no folder {ORIGINALS}DATE in it).")
    undo_list, aside = _read_undo_list(originals), _unused_folder(folder, SET_ASIDE)
    set_aside, restored, removed, moved = [], 0, 0, set(undo_list.moved)
    try:
        for name, content in undo_list.created.items():
            path = folder / name
            is_original = name in moved and not os.path.lexists(originals / _OLD / name)  # not moved, or back already
            if is_original or not os.path.lexists(path):
                continue
            if path.is_file() and files.content_hash(path) == content:
                path.unlink()
                removed += 1
            else:
                set_aside.append(_move(path, aside / name))
        for name in undo_list.moved:
            if not os.path.lexists(originals / _OLD / name):
                continue
            if os.path.lexists(folder / name):
                set_aside.append(_move(folder / name, aside / name))
            _move(originals / _OLD / name, folder / name)
            restored += 1
        if any(path.is_file() for path in (originals / _OLD).rglob("*")):
            raise UserError(
                f"{originals} contains files that are not in its {_UNDO_LIST}. Move them out, then delete the folder."
            )
        shutil.rmtree(originals)
    except OSError as error:
        raise files.as_user_error(error, folder) from error
    return UndoResult(restored, removed, tuple(set_aside))


def _exchange(folder: Path, originals: Path, undo_list: _UndoList) -> None:
    for name in undo_list.moved:
        _move(folder / name, originals / _OLD / name)
    for name in undo_list.created:
        _move(originals / _NEW / name, folder / name)
    shutil.rmtree(originals / _NEW)


def _move(source: Path, destination: Path) -> Path:
    destination.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(destination):
        raise UserError(f"{destination} already exists and is not overwritten. Move it away, then try again.")
    os.rename(source, destination)
    return destination


def _make_undo_list(done: Preparation, new: Path) -> _UndoList:
    """The originals to move away and the files to create, in the order of the images."""
    copies = {copy for change in done.changes for copy in change.copies()}
    writes = [copy for change in done.changes for copy in change.writes()]
    staying = {source for source, destination in copies - set(writes) if source == destination}
    leaving = dict.fromkeys(source for source, _ in writes if source not in staying)
    created = dict.fromkeys(str(destination.relative_to(done.folder)) for _, destination in writes)
    return _UndoList(
        moved=tuple(str(path.relative_to(done.folder)) for path in leaving),
        created={name: files.content_hash(new / name) for name in created},
    )


def _require_free_paths(folder: Path, undo_list: _UndoList) -> None:
    moved = set(undo_list.moved)
    in_the_way = [name for name in undo_list.created if name not in moved and os.path.lexists(folder / name)]
    if in_the_way:
        raise UserError.from_problems(
            [f"{folder / name} is in the way and is not overwritten. Nothing was changed." for name in in_the_way]
        )


def require_no_interrupted(folder: Path) -> None:
    """UserError when an earlier preparation of this folder was killed while files were moved."""
    for originals in _originals_folders(folder):
        if any(path.is_file() for path in (originals / _NEW).rglob("*")):
            raise UserError(
                f"{folder}: an earlier preparation in place was interrupted. Undo it first (prepare FOLDER --undo, or "
                "Undo last on the page), which restores the originals."
            )


def _originals_folders(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):  # unlike Path.is_dir, it takes any name
        return []
    return [path.parent for path in folder.glob(f"{ORIGINALS}*/{_UNDO_LIST}")]


def _unused_folder(folder: Path, prefix: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = [f"{prefix}{stamp}", *(f"{prefix}{stamp}-{n:03}" for n in range(2, 1000))]
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def _read_undo_list(originals: Path) -> _UndoList:
    """The undo list of a preparation, which decides what is removed. UserError when it is not valid."""
    values = files.read_json(originals / _UNDO_LIST)
    try:
        undo_list = _UndoList(tuple(values["moved"]), dict(values["made"]))
        paths = [PurePath(name) for name in (*undo_list.moved, *undo_list.created)]
        if any(path.is_absolute() or ".." in path.parts for path in paths):
            raise ValueError("a path leads out of the folder")
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{originals / _UNDO_LIST} is not a valid undo list ({error}). Restore the files in {originals} yourself."
        ) from error
    return undo_list
