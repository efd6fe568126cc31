"""Writing captions: all of an edit or nothing of it, and each can be taken back.

An edit is written into the folder's journal first, then file by file, each whole or not at all. What breaks it off
(a full disk, Cancel) has it taken back at once; after a kill, the next one who writes finishes it first. A file that
holds neither what it held before nor what it was to hold was changed by someone else: it is left as it is, and named.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth import files
from dreambooth.captions.history import Change, Journal
from dreambooth.captions.reading import MOST_BYTES, bytes_of
from dreambooth.errors import UserError
from dreambooth.types import ProgressCallback

NAMED = 5  # files that a message names; more are counted
BEFORE, AFTER, OTHER = "before", "after", "other"


@dataclass(frozen=True)
class WriteResult:
    """What came of it."""

    what: str  # what the edit is called; "" when there was nothing to do
    files: int = 0  # that were changed
    told: tuple[str, ...] = ()  # what a person should know: a line for each thing


def write_captions(
    folder: Path, changes: Mapping[Path, str], what: str, progress: ProgressCallback | None = None
) -> int:
    """Give caption files new texts, as one step that can be undone.

    ``changes``: caption files below ``folder`` (they need not exist yet), each with its whole text, which is written
    as UTF-8 as it stands; ``what`` is what people read beside Undo ("tagged with wd14"). Files that hold their text
    already are left alone. The number of files that were changed.
    Raises UserError when something can't be written, and Cancelled from ``progress``; nothing is changed then.
    """
    texts = {Path(path): encoded(path, text) for path, text in changes.items()}
    if not any(bytes_of(path) != data for path, data in texts.items()):
        return 0
    with _writing(Path(folder), progress) as (journal, _):
        return _new_step(journal, [Change(path, bytes_of(path), data) for path, data in texts.items()], what, progress)


def write_changes(
    folder: Path, changes: Sequence[Change], what: str, progress: ProgressCallback | None = None
) -> WriteResult:
    """Carry out what was planned, as one step. UserError, and nothing of it is written, when a file is no longer what
    it was then.
    """
    if not changes:
        return WriteResult(what)
    with _writing(Path(folder), progress) as (journal, finished):
        changed = [change.path for change in changes if _holds(change) != BEFORE]
        if changed:
            raise UserError(f"{_named(changed)} changed since this was planned. Nothing was written: look again.")
        return WriteResult(what, _new_step(journal, changes, what, progress), _first(finished))


def undo(folder: Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Take back the last step that is in effect, also one that was broken off."""
    return _step(Path(folder), False, progress)


def redo(folder: Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Do again what was taken back last; or finish what was broken off."""
    return _step(Path(folder), True, progress)


@contextlib.contextmanager
def _writing(folder: Path, progress: ProgressCallback | None) -> Iterator[tuple[Journal, WriteResult]]:
    """The journal, held, with nothing left half-done; and what was finished for that."""
    journal = Journal(folder)
    with journal.locked():
        done, going_to = journal.position()
        number = journal.between(done, going_to)
        yield journal, _move(journal, number, done, going_to, progress) if number else WriteResult("")


def _new_step(journal: Journal, changes: Sequence[Change], what: str, progress: ProgressCallback | None) -> int:
    """Write it down, then do it; the number of files."""
    changes = [change for change in changes if change.before != change.after]
    if not changes:
        return 0
    done, _ = journal.position()
    journal.place(done, done)  # so that the step counts only once it is begun
    journal.add(done + 1, what, changes)
    try:
        _carry_out(journal, changes, done, done + 1, progress)
    except BaseException:
        if journal.position() == (done, done):  # taken back: it never was
            journal.drop(done + 1)
        raise
    for folder in {change.path.parent for change in changes}:
        files.clear_leftovers(folder)
    return len(changes)


def _step(folder: Path, forward: bool, progress: ProgressCallback | None) -> WriteResult:
    if not Journal(folder).numbers():
        return WriteResult("")
    was, was_going_to = Journal(folder).position()
    with _writing(folder, progress) as (journal, finished):
        if finished.what and (was_going_to > was) == forward:  # broken off on the very way that is asked for
            return finished
        done, _ = journal.position()
        number = journal.after(done) if forward else journal.until(done)
        if not number:
            return WriteResult("", 0, _first(finished))
        moved = _move(journal, number, done, number if forward else number - 1, progress)
        return WriteResult(moved.what, moved.files, (*_first(finished), *moved.told))


def _first(finished: WriteResult) -> tuple[str, ...]:
    """What to say of what was finished before the work that was asked for."""
    return (f"Finished first what was broken off: {finished.what}.", *finished.told) if finished.what else ()


def _move(journal: Journal, number: int, done: int, to: int, progress: ProgressCallback | None) -> WriteResult:
    """Go this step forward or back, in each file that holds what it should."""
    head, changes = journal.step(number), journal.changes(number)
    if to < done:
        changes = [change.turned() for change in changes]
    wanted, left = [], []
    for change in changes:
        holds = _holds(change)
        if holds == BEFORE:
            wanted.append(change)
        elif holds != AFTER:
            left.append(change.path)
    _carry_out(journal, wanted, done, to, progress)
    told = (f"{_named(left)} changed since then: left as it is now.",) if left else ()
    return WriteResult(head.what, len(wanted), told)


def _carry_out(
    journal: Journal, changes: Sequence[Change], done: int, to: int, progress: ProgressCallback | None
) -> None:
    """Write the files and note that they are written; whatever stops it, what this wrote is taken back."""
    written, stood = [], journal.position()
    journal.place(done, to)
    try:
        for number, change in enumerate(changes):
            if progress:
                progress(number, len(changes), "captions")
            _put(change)
            written.append(change)
        journal.place(to, to)
    except BaseException:
        for change in reversed(written):
            _put(change.turned())
        journal.place(*stood)
        raise


def _put(change: Change) -> None:
    """The file as it is to be, whole at any time."""
    path = change.path
    if change.after is None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise files.as_user_error(error, path, "remove") from error
        return
    with files.atomic_write(path) as beside:
        beside.write_bytes(change.after)
        with contextlib.suppress(OSError):  # a new file, or a share that knows no such thing
            shutil.copymode(path, beside)


def _holds(change: Change) -> str:
    """Which of its states the file is in. One that can't be read, or is no caption any more, someone else made so."""
    try:
        now = bytes_of(change.path)
    except UserError:
        return OTHER
    return BEFORE if now == change.before else AFTER if now == change.after else OTHER


def encoded(path: Path, text: str) -> bytes:
    """UserError for what can't be written, or could not be read again."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{path}: the caption holds characters that are no text. Remove them.") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: the caption would have {len(data) / 1e6:.1f} MB. Make it shorter.")
    return data


def _named(paths: Sequence[Path]) -> str:
    """The first few of the files, and how many more."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(map(str, paths[:NAMED])) + more
