"""What was done to the captions of a folder, step by step, so that it can be finished, taken back and done again.

    FOLDER/.dreambooth/captions/
      000012.jsonl.gz   one step: a line for what and when, then for each file its path, its bytes before and after
      position.json     how many steps are in effect, and where a move was going when it was broken off
      lock              held while files are written

A step is on disk before the first caption is touched, and never changes. A data set may come from anywhere, so what
stands in a journal is looked at before it is believed.
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

KEPT = 50  # steps that can be taken back
PATIENCE = 10.0  # seconds to wait for someone else who writes
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, RecursionError, OverflowError, zlib.error)
_ENDING = ".jsonl.gz"
_LONGEST = 200  # characters of what a step is called
_MOST_CHARACTERS = 2**30  # of one step, unpacked: a million long captions, before and after


@dataclass(frozen=True)
class Change:
    """What one file's bytes were and what they become; None where there is no such file."""

    path: Path
    before: bytes | None
    after: bytes | None

    def turned(self) -> Change:
        return Change(self.path, self.after, self.before)


@dataclass(frozen=True)
class Step:
    """What a step is called, without its files."""

    number: int  # counted from 1
    what: str
    when: str  # local time, as people write it
    files: int


class Journal:
    """The steps of one folder. Whoever writes holds :meth:`locked` meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".dreambooth" / "captions"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one at a time, of all threads and programs. UserError when another one doesn't come to an end."""
        import filelock

        if not self.folder.is_dir():  # a drive that went away is not made anew
            raise UserError(f"{self.folder}: there is no such folder. Correct the path.")
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(str(self.home / "lock"))
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            raise UserError(f"{self.folder}: its captions are being written already. Wait for that.") from None
        except OSError as error:
            raise files.as_user_error(error, self.home) from error
        except NotImplementedError:  # a network drive without locks; changed files are still noticed
            yield
            return
        try:
            yield
        finally:
            lock.release()

    # -- where things stand -----------------------------------------------------------------------------------

    def position(self) -> tuple[int, int]:
        """(steps in effect, where a move was going that was broken off; the same when none was)."""
        numbers = self.numbers()
        last = numbers[-1] if numbers else 0
        try:
            said = files.read_json(self.home / "position.json")
            done, going_to = int(said["done"]), int(said["going_to"])
        except (UserError, KeyError, TypeError, ValueError, OverflowError):
            return last, last
        return min(max(done, 0), last), min(max(going_to, 0), last)

    def place(self, done: int, going_to: int) -> None:
        files.write_json(self.home / "position.json", {"done": done, "going_to": going_to})

    def numbers(self) -> list[int]:
        """The steps that are kept, oldest first."""
        if not self.home.is_dir():
            return []
        names = (path.name.removesuffix(_ENDING) for path in self.home.glob(f"*{_ENDING}"))
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def until(self, done: int) -> int:
        """The step that is taken back next when so many are in effect; 0: none."""
        return max((number for number in self.numbers() if number <= done), default=0)

    def after(self, done: int) -> int:
        """The step that is done again next; 0: none."""
        return min((number for number in self.numbers() if number > done), default=0)

    def between(self, done: int, going_to: int) -> int:
        """The step that a move from here to there was about; 0: there was none, or it is gone."""
        number = self.after(done) if going_to > done else self.until(done)
        return number if min(done, going_to) < number <= max(done, going_to) else 0

    def steps(self) -> list[Step]:
        """What the steps are called, oldest first; those that can't be read are left out."""
        found = []
        for number in self.numbers():
            with contextlib.suppress(UserError):
                found.append(self.step(number))
        return found

    # -- steps ------------------------------------------------------------------------------------------------

    def add(self, number: int, what: str, changes: Iterable[Change]) -> None:
        """Write a step down, in place of those that it makes impossible; the oldest goes when there are many."""
        self.drop(number)
        rows = [[self._told(change.path), _text(change.before), _text(change.after)] for change in changes]
        head = {"what": _words(what), "when": time.strftime("%Y-%m-%d %H:%M:%S"), "files": len(rows)}
        with files.atomic_write(self._path(number)) as beside, gzip.open(beside, "wt", encoding="ascii") as out:
            for row in (head, *rows):
                out.write(json.dumps(row) + "\n")
        for old in self.numbers()[:-KEPT]:
            self._path(old).unlink(missing_ok=True)

    def drop(self, number: int) -> None:
        """Forget this step and all later ones."""
        for later in self.numbers():
            if later >= number:
                self._path(later).unlink(missing_ok=True)

    def step(self, number: int) -> Step:
        """UserError where it can't be read."""
        with self._opened(number) as file:
            return self._head(number, file)

    def changes(self, number: int) -> list[Change]:
        """What a step did to each file. UserError where that can't be read, or leads out of the folder."""
        with self._opened(number) as file:
            self._head(number, file)
            changes, left = [], _MOST_CHARACTERS
            while line := file.readline(left):
                left -= len(line)
                path, before, after = json.loads(line)
                changes.append(Change(self._inside(path), _bytes(before), _bytes(after)))
        return changes

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[Any]:
        path = self._path(number)
        try:
            with gzip.open(path, "rt", encoding="ascii") as file:
                yield file
        except _UNREADABLE as error:
            raise UserError(f"{path}: this step can't be read ({error}). Remove it to go on.") from error

    @staticmethod
    def _head(number: int, file: Any) -> Step:
        head = json.loads(file.readline(10_000))
        return Step(number, _words(head["what"]), _words(head["when"]), int(head["files"]))

    def _path(self, number: int) -> Path:
        return self.home / f"{number:06}{_ENDING}"

    def _told(self, path: Path) -> str:
        try:
            told = path.relative_to(self.folder).as_posix()
            self._inside(told)
            return told
        except ValueError:
            raise UserError(f"{path}: does not lie in {self.folder}.") from None

    def _inside(self, told: str) -> Path:
        path = PurePosixPath(told)
        leads_out = path.is_absolute() or PureWindowsPath(told).anchor or ".." in PureWindowsPath(told).parts
        if leads_out or any(part.startswith(".") for part in path.parts[:-1]) or not path.parts:
            raise ValueError(f"{told!r} is no caption of this folder")
        return self.folder / path


def _words(text: Any) -> str:
    """One line, of a length that can be shown anywhere."""
    return "".join(filter(str.isprintable, " ".join(str(text).split())))[:_LONGEST]


def _text(data: bytes | None) -> str | None:
    """Bytes as JSON can hold them, and as a person can read them where they are UTF-8."""
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")
