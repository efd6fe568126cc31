"""Reading files of a drive that may be slow, stuck, or written to by somebody else at the same time."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from dreambooth.errors import UserError
from dreambooth.images.issues import UnusableFile, named

T = TypeVar("T")
R = TypeVar("R")
Beat = Callable[[], None]  # called whenever the drive has answered

MAX_BYTES = 2**29  # no picture that may be decoded needs as much
PATIENCE = 20.0  # seconds without a byte, after which a file is given up
_BLOCK = 2**20
_TRIES = 3  # at a file that is written to meanwhile
_LOOK = 0.01  # seconds between two looks at what was read
# Where nothing is decoded or waited for, as of files that are known, several threads only wait for each other.
_QUICK, _SLOW = 10, 30  # items at a look; so many looks in a row with fewer call for another thread
GIVE_UP = 8  # files in a row that got no answer: the drive is gone
# Decoding leaves Python's lock, so threads help; each holds one decoded picture, so few do.
_READERS = min(4, os.cpu_count() or 1)


def no_beat() -> None:
    """For who waits as long as it takes."""


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes, all from one state of it. Raises Unusable that says why it can't be read."""
    with asking(path) as beat:
        return read_state(path, beat)[0]


@contextlib.contextmanager
def asking(path: str | Path) -> Iterator[Beat]:
    """In a :class:`Reader`'s thread the drive's patience counts meanwhile, and one that was left behind ends here."""
    reader = threading.current_thread()
    if not isinstance(reader, Reader):
        yield no_beat
        return
    reader.beat()
    try:
        yield reader.beat
    finally:
        reader.rest()
    if reader.is_left:
        raise UnusableFile(path, "stalled", "was read too late.")


def read_state(path: str | Path, beat: Beat = no_beat) -> tuple[bytes, os.stat_result]:
    """As :func:`read_bytes`, with what the system says of the state that was read."""
    for _ in range(_TRIES):
        before = look_at(path)
        try:
            data = _read(path, before.st_size, beat)
        except OSError as error:
            raise _refused(path, error) from error
        if same_state(before, look_at(path)) and len(data) == before.st_size:
            return data, before
    raise UnusableFile(path, "changing", "is being written to. Wait until that is finished.")


def look_at(path: str | Path) -> os.stat_result:
    """What the system says of a file that could be read. Raises Unusable for what could not."""
    try:
        seen = os.stat(path)
    except OSError as error:
        raise _refused(path, error) from error
    if not stat.S_ISREG(seen.st_mode):  # opening a pipe would wait for its other end
        what = "a folder" if stat.S_ISDIR(seen.st_mode) else "no file but a pipe, socket or device"
        raise UnusableFile(path, "not-a-file", f"can't be read: it is {what}. Remove it from the folder.")
    if not seen.st_size:
        raise UnusableFile(path, "empty", "is empty (0 bytes). Replace it, or remove it from the folder.")
    if seen.st_size > MAX_BYTES:
        raise UnusableFile(path, "too-large", f"has more than {MAX_BYTES // 2**20} MiB. Make the picture smaller.")
    return seen


def same_state(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether the file was not written to between two looks, as far as the system tells."""
    return all(getattr(one, key) == getattr(other, key) for key in ("st_size", "st_mtime_ns", "st_ino"))


def _read(path: str | Path, size: int, beat: Beat) -> bytes:
    """The file from its start, one byte more than ``size`` at most: it may grow for ever."""
    with open(path, "rb", buffering=0) as file:
        blocks, left = [], size + 1
        while left and (block := file.read(min(left, _BLOCK))):
            beat()
            blocks.append(block)
            left -= len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _refused(path: str | Path, error: OSError) -> UnusableFile:
    if not os.path.islink(path):
        if isinstance(error, FileNotFoundError):
            return UnusableFile(path, "vanished", "can't be read: it is gone since the folder was listed.")
        return UnusableFile(path, "unreadable", f"can't be read ({error.strerror or error}).")
    return UnusableFile(
        path, "not-a-file", f"can't be read: it is a link that leads nowhere ({error.strerror or error})."
    )


def gone(path: str) -> UserError:
    return UserError(f"{path}: the drive gives no answer any more. Check the connection, then try again.")


def read_all(
    items: Sequence[T],
    read: Callable[[T, Reader], R],
    on_done: Callable[[int], None] = lambda done: None,
    patience: float | None = None,
    path_of: Callable[[T], object] = str,
) -> list[R | UserError]:
    """What ``read(item, reader)`` gives for each of ``items``, or the UserError that it raises; several at a time.

    An item that keeps its thread waiting for ``patience`` seconds (PATIENCE) without a beat of the ``reader`` gets an
    Unusable, and its thread is left behind: nothing ends a thread that waits for a drive. UserError when the drive
    answers no more. ``path_of`` says what an item is called in both. ``on_done`` is called with the number of items so
    far, and may raise to leave.
    """
    work = _Work(items, read, path_of, PATIENCE if patience is None else patience)
    try:
        for done, _ in enumerate(work.results(), start=1):
            on_done(done)
    finally:
        work.stop()
    return work.found


class Reader(threading.Thread, Generic[T, R]):
    """One thread that reads; where it has been waiting for the drive since, if it is."""

    def __init__(self, work: _Work[T, R]) -> None:
        super().__init__(name="dreambooth reader", daemon=True)  # one that is stuck must not keep the process
        self._work = work
        self._item = 0
        self.waiting: tuple[int, float] | None = None  # for which item, since when

    def beat(self) -> None:
        """The drive has answered, or is about to be asked."""
        self.waiting = self._item, time.monotonic()

    def rest(self) -> None:
        """What follows takes as long as it takes."""
        self.waiting = None

    @property
    def is_left(self) -> bool:
        """Whether nobody waits for its results any more."""
        return not self._work.has(self)

    def run(self) -> None:
        for index, item in self._work.take(self):
            self._item = index
            self.beat()
            try:
                result: object = self._work.read(item, self)
            except BaseException as error:
                result = error
            self.rest()
            self._work.answers.append((index, result))


class _Work(Generic[T, R]):
    def __init__(
        self, items: Sequence[T], read: Callable[[T, Reader], R], path_of: Callable[[T], object], patience: float
    ) -> None:
        self.items, self.read, self.path_of, self.patience = items, read, path_of, patience
        self.found: list = [None] * len(items)
        self.answers: deque[tuple[int, object]] = deque()
        self._next = iter(enumerate(items))
        self._lock = threading.Lock()
        self._readers: set[Reader] = set()
        self._lost: set[int] = set()  # items that were given up
        self._stuck = 0  # in a row
        self._looked = time.monotonic()

    def results(self) -> Iterator[int]:
        """The number of each item as soon as its result, or its error, is among those found."""
        left, slow = len(self.items), 0
        if left:
            self._start()
        while left:
            answered = self._answered()
            slow = 0 if len(answered) >= _QUICK else slow + 1
            if slow >= _SLOW and len(self._readers) < min(_READERS, left):
                self._start()
                slow = 0
            for index in (*answered, *self._given_up()):
                left -= 1
                yield index

    def take(self, reader: Reader) -> Iterator[tuple[int, T]]:
        """Items for a reader, until there are none or it was left behind."""
        while True:
            with self._lock:
                following = next(self._next, None) if reader in self._readers else None
            if following is None:
                return
            yield following

    def has(self, reader: Reader) -> bool:
        with self._lock:
            return reader in self._readers

    def stop(self) -> None:
        """Take no more, and wait for those that are at work; one that waits for the drive goes no further anyway."""
        with self._lock:
            left = set(self._readers)
            self._readers.clear()
        for reader in left:
            while reader.is_alive() and reader.waiting is None:
                reader.join(0.1)

    def _start(self) -> None:
        reader = Reader(self)
        self._readers.add(reader)
        reader.start()

    def _answered(self) -> list[int]:
        """What was answered since the last time; to be woken at each answer takes longer than a small file does."""
        if not self.answers:
            time.sleep(min(_LOOK, self.patience / 4))
        answered = []
        while self.answers:
            index, result = self.answers.popleft()
            if index in self._lost:
                continue  # an answer after all
            if isinstance(result, BaseException) and not isinstance(result, UserError):
                raise result
            self._stuck = 0
            self.found[index] = result
            answered.append(index)
        return answered

    def _given_up(self) -> list[int]:
        now, given_up = time.monotonic(), []
        slept, self._looked = now - self._looked > self.patience / 2, now
        if slept:  # so did the readers, with the whole process: they have not been waiting for the drive
            return []
        for reader in list(self._readers):
            index, since = reader.waiting or (0, now)
            if now - since < self.patience:
                continue
            with self._lock:
                self._readers.discard(reader)
            path = named(str(self.path_of(self.items[index])))
            self._stuck += 1
            if self._stuck > GIVE_UP:
                raise gone(path)
            self.found[index] = UnusableFile(
                path, "stalled", f"the drive gave no answer for {self.patience:g} seconds."
            )
            self._lost.add(index)
            given_up.append(index)
            self._start()
        return given_up
