"""The undo history of a folder's captions: every edit with the bytes of its files before and after.

    FOLDER/.dreambooth/captions/
      000012.jsonl.gz   one edit: a line with its description and time, then each file's path, bytes before and after
      position.json     the number of edits in effect, and the target of an interrupted undo, redo or edit
      lock              held while files are written

An edit is on disk before the first caption is written, and never changes. A dataset may come from anywhere, so the
content of a history is validated before it is used.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dreambooth import files
from dreambooth.errors import UserError

MAX_EDITS = 50  # that can be undone; older ones are removed
LOCK_TIMEOUT = 10.0  # seconds to wait for another writer
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError, OverflowError, zlib.error)
_EXTENSION = ".jsonl.gz"
_MAX_DESCRIPTION = 200  # characters
_MAX_CHARACTERS = 2**30  # of one edit, uncompressed: a million long captions, before and after


@dataclass(frozen=True)
class FileChange:
    """The bytes of a file before and after an edit; None where the file does not exist."""

    path: Path
    before: bytes | None
    after: bytes | None

    def reversed(self) -> FileChange:
        return FileChange(self.path, self.after, self.before)


@dataclass(frozen=True)
class RecordedEdit:
    """An edit of the history, without its files."""

    number: int  # from 1
    description: str
    time: str  # local, as YYYY-MM-DD HH:MM:SS
    n_files: int


class EditHistory:
    """The edits of one folder, by number. Writers hold :meth:`locked`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".dreambooth" / "captions"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude all other threads and processes. UserError when another one does not finish in time."""
        if not self.folder.is_dir():  # don't create the mount point of a disconnected drive
            raise UserError(f"{self.folder}: there is no such folder. Correct the path.")
        busy = f"The captions of {self.folder} are being written by another process. Try again later."
        # Without locks, changed files are still detected.
        with files.locked(self.home / "lock", LOCK_TIMEOUT, lambda: busy, required=False):
            yield

    # -- position ---------------------------------------------------------------------------------------------

    def position(self) -> tuple[int, int]:
        """(number of edits in effect, target of an interrupted move); both are equal if none was interrupted."""
        numbers = self.numbers()
        last = numbers[-1] if numbers else 0
        try:
            saved = files.read_json(self.home / "position.json")
            done, target = int(saved["done"]), int(saved["going_to"])
        except (UserError, KeyError, TypeError, ValueError, OverflowError):
            return last, last
        return min(max(done, 0), last), min(max(target, 0), last)

    def set_position(self, done: int, target: int) -> None:
        files.write_json(self.home / "position.json", {"done": done, "going_to": target})

    def numbers(self) -> list[int]:
        """The numbers of the saved edits, oldest first."""
        if not self.home.is_dir():
            return []
        names = (path.name.removesuffix(_EXTENSION) for path in self.home.glob(f"*{_EXTENSION}"))
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def next_undo(self, done: int) -> int:
        """The edit to undo next with ``done`` edits in effect; 0 if there is none."""
        return max((number for number in self.numbers() if number <= done), default=0)

    def next_redo(self, done: int) -> int:
        """The edit to redo next with ``done`` edits in effect; 0 if there is none."""
        return min((number for number in self.numbers() if number > done), default=0)

    def interrupted(self, done: int, target: int) -> int:
        """The edit of an interrupted move from ``done`` to ``target``; 0 if there was none, or it was removed."""
        number = self.next_redo(done) if target > done else self.next_undo(done)
        return number if min(done, target) < number <= max(done, target) else 0

    # -- edits ------------------------------------------------------------------------------------------------

    def edits(self) -> list[RecordedEdit]:
        """The saved edits, oldest first, without unreadable ones."""
        found = []
        for number in self.numbers():
            with contextlib.suppress(UserError):
                found.append(self.edit(number))
        return found

    def add(self, number: int, description: str, changes: Iterable[FileChange]) -> None:
        """Save an edit. It replaces those with this or a higher number; the oldest beyond MAX_EDITS are removed."""
        self.remove_from(number)
        rows = [[self._relative(change.path), _to_json(change.before), _to_json(change.after)] for change in changes]
        header = {"what": _one_line(description), "when": time.strftime("%Y-%m-%d %H:%M:%S"), "files": len(rows)}
        with files.atomic_write(self._path(number)) as temporary, gzip.open(temporary, "wt", encoding="ascii") as out:
            for row in (header, *rows):
                out.write(json.dumps(row) + "\n")
        for old in self.numbers()[:-MAX_EDITS]:
            self._path(old).unlink(missing_ok=True)

    def remove_from(self, number: int) -> None:
        """Remove this edit and all later ones."""
        for later in self.numbers():
            if later >= number:
                self._path(later).unlink(missing_ok=True)

    def edit(self, number: int) -> RecordedEdit:
        """UserError when it can't be read."""
        with self._opened(number) as file:
            return self._read_header(number, file)

    def changes(self, number: int) -> list[FileChange]:
        """The changes of an edit. UserError when it can't be read, or a path leads out of the folder."""
        with self._opened(number) as file:
            self._read_header(number, file)
            changes, remaining = [], _MAX_CHARACTERS
            while line := file.readline(remaining):
                remaining -= len(line)
                path, before, after = json.loads(line)
                changes.append(FileChange(self._absolute(path), _from_json(before), _from_json(after)))
        return changes

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[Any]:
        path = self._path(number)
        try:
            with gzip.open(path, "rt", encoding="ascii") as file:
                yield file
        except _UNREADABLE as error:
            raise UserError(f"{path}: this edit can't be read ({error}). Remove the file to continue.") from error

    @staticmethod
    def _read_header(number: int, file: Any) -> RecordedEdit:
        header = json.loads(file.readline(10_000))
        return RecordedEdit(number, _one_line(header["what"]), _one_line(header["when"]), int(header["files"]))

    def _path(self, number: int) -> Path:
        return self.home / f"{number:06}{_EXTENSION}"

    def _relative(self, path: Path) -> str:
        try:
            relative = path.relative_to(self.folder).as_posix()
            self._absolute(relative)
            return relative
        except ValueError:
            raise UserError(f"{path} is not in {self.folder}.") from None

    def _absolute(self, relative: str) -> Path:
        path = PurePosixPath(relative)
        leads_out = path.is_absolute() or PureWindowsPath(relative).anchor or ".." in PureWindowsPath(relative).parts
        if leads_out or any(part.startswith(".") for part in path.parts[:-1]) or not path.parts:
            raise ValueError(f"{relative!r} is not a caption of this folder")
        return self.folder / path


def _one_line(text: Any) -> str:
    """Printable characters on one line, of limited length."""
    return "".join(filter(str.isprintable, " ".join(str(text).split())))[:_MAX_DESCRIPTION]


def _to_json(data: bytes | None) -> str | None:
    """Any bytes as a string, readable where they are UTF-8."""
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _from_json(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")
