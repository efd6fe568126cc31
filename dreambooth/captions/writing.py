"""Writing captions atomically: an edit is written completely or not at all, and can be undone and redone.

An edit is saved in the folder's history first, then each file is written atomically. An error or Cancel reverts the
files at once; after a kill, the next writer finishes the edit first. A file that has neither its content before nor
after the edit was changed by someone else: it is left as it is and reported.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth import files
from dreambooth.captions.history import EditHistory, FileChange
from dreambooth.captions.reading import MAX_BYTES, read_caption_bytes
from dreambooth.errors import UserError
from dreambooth.images.file_kinds import has_image_content
from dreambooth.types import ProgressCallback

MAX_NAMED = 5  # files that a message names; more are counted
BEFORE, AFTER, OTHER = "before", "after", "other"


@dataclass(frozen=True)
class WriteResult:
    """The outcome of an edit, undo or redo."""

    description: str  # of the edit; "" when there was nothing to do
    n_files: int = 0  # that were changed
    messages: tuple[str, ...] = ()


def write_captions(
    folder: Path, texts: Mapping[Path, str], description: str, progress: ProgressCallback | None = None
) -> int:
    """Write caption files as one edit that can be undone; the number of changed files.

    ``texts``: the complete new text of each caption file in ``folder`` or its subfolders (they may not exist yet),
    written as UTF-8; ``description`` is shown next to Undo ("tagged with wd14"). Unchanged files are not written.
    UserError when a file can't be written, and Cancelled from ``progress``; then no file is changed.
    """
    contents = {Path(path): encode_caption(path, text) for path, text in texts.items()}
    _refuse_images(contents)
    if not any(read_caption_bytes(path) != data for path, data in contents.items()):
        return 0
    with _locked_history(Path(folder), progress) as (history, _):
        changes = [FileChange(path, read_caption_bytes(path), data) for path, data in contents.items()]
        return _write_new_edit(history, changes, description, progress)


def write_changes(
    folder: Path, changes: Sequence[FileChange], description: str, progress: ProgressCallback | None = None
) -> WriteResult:
    """Write planned changes as one edit. UserError, and nothing is written, if a file changed since the planning."""
    if not changes:
        return WriteResult(description)
    _refuse_images(change.path for change in changes)
    with _locked_history(Path(folder), progress) as (history, finished):
        changed = [change.path for change in changes if _state(change) != BEFORE]
        if changed:
            raise UserError(f"{_name_some(changed)} changed since the preview. Nothing was written: preview again.")
        n_files = _write_new_edit(history, changes, description, progress)
        return WriteResult(description, n_files, _finished_messages(finished))


def undo(folder: Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Undo the last edit in effect, also an interrupted one."""
    return _undo_or_redo(Path(folder), False, progress)


def redo(folder: Path, progress: ProgressCallback | None = None) -> WriteResult:
    """Redo the edit that was undone last, or finish an interrupted one."""
    return _undo_or_redo(Path(folder), True, progress)


@contextlib.contextmanager
def _locked_history(folder: Path, progress: ProgressCallback | None) -> Iterator[tuple[EditHistory, WriteResult]]:
    """The locked history, and the result of finishing an edit that was interrupted."""
    history = EditHistory(folder)
    with history.locked():
        done, target = history.position()
        number = history.interrupted(done, target)
        yield history, _move(history, number, done, target, progress) if number else WriteResult("")


def _write_new_edit(
    history: EditHistory, changes: Sequence[FileChange], description: str, progress: ProgressCallback | None
) -> int:
    """Save the edit in the history, then write its files; the number of files."""
    changes = [change for change in changes if change.before != change.after]
    if not changes:
        return 0
    done, _ = history.position()
    history.set_position(done, done)  # so that the edit is not in effect before its first file is written
    history.add(done + 1, description, changes)
    try:
        _write_files(history, changes, done, done + 1, progress)
    except BaseException:
        if history.position() == (done, done):  # its files were reverted
            history.remove_from(done + 1)
        raise
    for folder in {change.path.parent for change in changes}:
        files.clear_leftovers(folder)
    return len(changes)


def _undo_or_redo(folder: Path, forward: bool, progress: ProgressCallback | None) -> WriteResult:
    if not EditHistory(folder).numbers():
        return WriteResult("")
    interrupted_at, interrupted_target = EditHistory(folder).position()
    with _locked_history(folder, progress) as (history, finished):
        if finished.description and (interrupted_target > interrupted_at) == forward:  # finishing was the request
            return finished
        done, _ = history.position()
        number = history.next_redo(done) if forward else history.next_undo(done)
        if not number:
            return WriteResult("", 0, _finished_messages(finished))
        result = _move(history, number, done, number if forward else number - 1, progress)
        return WriteResult(result.description, result.n_files, (*_finished_messages(finished), *result.messages))


def _finished_messages(finished: WriteResult) -> tuple[str, ...]:
    """The messages about an interrupted edit that was finished before the requested one."""
    if not finished.description:
        return ()
    return (f"Finished the interrupted edit first: {finished.description}.", *finished.messages)


def _move(history: EditHistory, number: int, done: int, target: int, progress: ProgressCallback | None) -> WriteResult:
    """Apply or revert an edit, in each file that was not changed by someone else."""
    edit, changes = history.edit(number), history.changes(number)
    if target < done:
        changes = [change.reversed() for change in changes]
    to_write, changed_by_others = [], []
    for change in changes:
        state = _state(change)
        if state == BEFORE:
            to_write.append(change)
        elif state != AFTER:
            changed_by_others.append(change.path)
    _write_files(history, to_write, done, target, progress)
    message = f"Skipped, as changed since then: {_name_some(changed_by_others)}."
    return WriteResult(edit.description, len(to_write), (message,) if changed_by_others else ())


def _write_files(
    history: EditHistory, changes: Sequence[FileChange], done: int, target: int, progress: ProgressCallback | None
) -> None:
    """Write the files and the new position; revert them on any error or Cancel."""
    written, position = [], history.position()
    history.set_position(done, target)
    try:
        for index, change in enumerate(changes):
            if progress:
                progress(index, len(changes), "captions")
            _write_file(change)
            written.append(change)
        history.set_position(target, target)
    except BaseException:
        for change in reversed(written):
            _write_file(change.reversed())
        history.set_position(*position)
        raise


def _write_file(change: FileChange) -> None:
    path = change.path
    if change.after is None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise files.as_user_error(error, path, "remove") from error
        return
    with files.atomic_write(path) as temporary:
        temporary.write_bytes(change.after)
        with contextlib.suppress(OSError):  # a new file, or a network share without modes
            shutil.copymode(path, temporary)


def _state(change: FileChange) -> str:
    """BEFORE, AFTER, or OTHER for a file that someone else changed or that can't be read as a caption anymore."""
    try:
        data = read_caption_bytes(change.path)
    except UserError:
        return OTHER
    return BEFORE if data == change.before else AFTER if data == change.after else OTHER


def _refuse_images(paths: Iterable[Path]) -> None:
    """UserError for an image whose extension is that of captions: it would be overwritten."""
    if images := [path for path in paths if has_image_content(path)]:
        raise UserError(
            f"{_name_some(images)}: is an image, which a caption would overwrite. Rename it to .jpg or .png."
        )


def encode_caption(path: Path, text: str) -> bytes:
    """The text as UTF-8. UserError for text that can't be encoded, or is too long to be read again."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{path}: the caption contains invalid characters. Remove them.") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: the caption is {len(data) / 1e6:.1f} MB, at most 1 MB is allowed. Shorten it.")
    return data


def _name_some(paths: Sequence[Path]) -> str:
    """The first few files by name, and the number of the others."""
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(map(str, paths[:MAX_NAMED])) + more
