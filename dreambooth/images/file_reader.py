"""Reading files in a few threads, from drives that may be slow, hang, or be written to at the same time."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dreambooth.errors import UserError
from dreambooth.images.issues import UnusableFile
from dreambooth.text import escape_unprintable

T = TypeVar("T")
R = TypeVar("R")
Heartbeat = Callable[[], None]  # called whenever the drive has responded

MAX_BYTES = 2**29  # larger than any image that may be decoded
RESPONSE_TIMEOUT = 20.0  # seconds without a byte, after which a file is given up
MAX_STALLED_IN_A_ROW = 8  # files without a response, after which the drive is given up
_BLOCK = 2**20
_MAX_ATTEMPTS = 3  # for a file that is written to meanwhile
_POLL_INTERVAL = 0.01  # seconds
# Threads slow each other down where nothing is decoded or waited for, as with cached metadata. So a thread is added
# only after _SLOW_POLLS polls in a row with fewer than _FAST results each.
_FAST, _SLOW_POLLS = 10, 30
# Decoding releases the GIL, so threads help; each holds one decoded image, so there are few.
_MAX_READERS = min(4, os.cpu_count() or 1)


def no_heartbeat() -> None:
    """For callers without a timeout."""


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes, all from one version of it. UnusableFile with the reason why it can't be read."""
    with drive_timeout(path) as heartbeat:
        return read_with_status(path, heartbeat)[0]


@contextlib.contextmanager
def drive_timeout(path: str | Path) -> Iterator[Heartbeat]:
    """Within a :class:`Reader` thread, apply the timeout of :func:`read_all` to the block, which calls the heartbeat.

    UnusableFile ends the work of a thread that was abandoned meanwhile. No timeout in other threads.
    """
    reader = threading.current_thread()
    if not isinstance(reader, Reader):
        yield no_heartbeat
        return
    reader.heartbeat()
    try:
        yield reader.heartbeat
    finally:
        reader.stop_timeout()
    if reader.is_abandoned:
        raise UnusableFile(path, "stalled", "was not read in time.")


def read_with_status(path: str | Path, heartbeat: Heartbeat = no_heartbeat) -> tuple[bytes, os.stat_result]:
    """As :func:`read_bytes`, with the file status of the version that was read."""
    for _ in range(_MAX_ATTEMPTS):
        status = file_status(path)
        try:
            data = _read(path, status.st_size, heartbeat)
        except OSError as error:
            raise _as_unusable(path, error) from error
        if is_same_version(status, file_status(path)) and len(data) == status.st_size:
            return data, status
    raise UnusableFile(path, "changing", "is being written to. Wait until that is finished.")


def file_status(path: str | Path) -> os.stat_result:
    """The status of a file that can be read. UnusableFile for a folder, pipe, empty or too large file."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _as_unusable(path, error) from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise UnusableFile(path, "not-a-file", f"can't be read: it is {kind}. Remove it from the folder.")
    if not status.st_size:
        raise UnusableFile(path, "empty", "is empty (0 bytes). Replace it, or remove it from the folder.")
    if status.st_size > MAX_BYTES:
        raise UnusableFile(path, "too-large", f"is larger than {MAX_BYTES // 2**20} MiB. Resize the image.")
    return status


def is_same_version(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether a file was not written to between two calls of stat, as far as size, time and inode tell."""
    return all(getattr(one, key) == getattr(other, key) for key in ("st_size", "st_mtime_ns", "st_ino"))


def _read(path: str | Path, size: int, heartbeat: Heartbeat) -> bytes:
    """At most ``size`` + 1 bytes of the file: it may grow forever."""
    with open(path, "rb", buffering=0) as file:
        blocks, remaining = [], size + 1
        while remaining and (block := file.read(min(remaining, _BLOCK))):
            heartbeat()
            blocks.append(block)
            remaining -= len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _as_unusable(path: str | Path, error: OSError) -> UnusableFile:
    reason = error.strerror or error
    if os.path.islink(path):
        return UnusableFile(path, "not-a-file", f"can't be read: it is a broken link ({reason}).")
    if isinstance(error, FileNotFoundError):
        return UnusableFile(path, "vanished", "can't be read: it was deleted after the folder was listed.")
    return UnusableFile(path, "unreadable", f"can't be read ({reason}).")


def drive_lost(path: str) -> UserError:
    return UserError(f"{path}: the drive stopped responding. Check the connection, then try again.")


def read_all(
    items: Sequence[T],
    read: Callable[[T, Reader], R],
    on_done: Callable[[int], None] = lambda n_done: None,
    timeout: float | None = None,
    path_of: Callable[[T], object] = str,
) -> list[R | UserError]:
    """The result of ``read(item, reader)`` for each item, or the UserError that it raised; in a few threads.

    An item without a heartbeat of its ``reader`` for ``timeout`` seconds (default RESPONSE_TIMEOUT) gets an
    UnusableFile, and its thread is abandoned, since nothing can end a thread that waits for a drive. UserError when
    the drive does not respond for more than MAX_STALLED_IN_A_ROW items. ``path_of`` gives the path of an item for both
    messages. ``on_done`` gets the number of finished items, and may raise to stop.
    """
    pool = _ReaderPool(items, read, path_of, RESPONSE_TIMEOUT if timeout is None else timeout)
    try:
        pool.run(on_done)
    finally:
        pool.stop()
    return pool.results


class Reader(threading.Thread):
    """A thread that reads the items of a pool one by one."""

    def __init__(self, pool: _ReaderPool) -> None:
        super().__init__(name="dreambooth reader", daemon=True)  # a stuck thread must not keep the process alive
        self._pool = pool
        self.index = 0  # of the current item
        self.last_heartbeat: float | None = None  # None while it does not wait for the drive
        self.is_abandoned = False

    def heartbeat(self) -> None:
        """Start or restart the timeout: the drive has responded, or is about to be accessed."""
        self.last_heartbeat = time.monotonic()

    def stop_timeout(self) -> None:
        """Before work that may take any time, such as decoding."""
        self.last_heartbeat = None

    def run(self) -> None:
        while (index := self._pool.next_index(self)) is not None:
            try:
                result: object = self._pool.read(self._pool.items[index], self)
            except BaseException as error:
                result = error
            self.stop_timeout()
            self._pool.finished.append((index, result))


class _ReaderPool:
    """The threads of :func:`read_all`, their results, and the watchdog in the calling thread."""

    def __init__(
        self, items: Sequence[Any], read: Callable[..., Any], path_of: Callable[[Any], object], timeout: float
    ) -> None:
        self.items, self.read, self.path_of, self.timeout = items, read, path_of, timeout
        self.results: list[Any] = [None] * len(items)
        self.finished: deque[tuple[int, object]] = deque()  # not yet collected
        self._indices = iter(range(len(items)))
        self._lock = threading.Lock()
        self._readers: list[Reader] = []
        self._stalled: set[int] = set()
        self._stalled_in_a_row = 0
        self._last_poll = time.monotonic()

    def run(self, on_done: Callable[[int], None]) -> None:
        n_done, slow_polls = 0, 0
        while n_done < len(self.items):
            if not self._readers:
                self._start_reader()
            if not self.finished:  # polling: waking up for each result takes longer than reading a small file
                time.sleep(min(_POLL_INTERVAL, self.timeout / 4))
            n_finished = self._collect_finished()
            slow_polls = 0 if n_finished >= _FAST else slow_polls + 1
            if slow_polls >= _SLOW_POLLS and len(self._readers) < min(_MAX_READERS, len(self.items) - n_done):
                self._start_reader()
                slow_polls = 0
            for _ in range(n_finished + self._abandon_stalled()):
                n_done += 1
                on_done(n_done)

    def next_index(self, reader: Reader) -> int | None:
        """The next item for a reader; None when there are none left, or the reader was abandoned."""
        with self._lock:
            index = None if reader.is_abandoned else next(self._indices, None)
            if index is not None:
                reader.index = index
                reader.heartbeat()
            return index

    def stop(self) -> None:
        """Hand out no more items, and wait for all readers except those that wait for the drive."""
        with self._lock:
            for reader in self._readers:
                reader.is_abandoned = True
        for reader in self._readers:
            while reader.is_alive() and reader.last_heartbeat is None:
                reader.join(0.1)

    def _start_reader(self) -> None:
        reader = Reader(self)
        self._readers.append(reader)
        reader.start()

    def _collect_finished(self) -> int:
        """Store the results since the last call; how many there were."""
        n_collected = 0
        while self.finished:
            index, result = self.finished.popleft()
            if index in self._stalled:
                continue  # too late
            if isinstance(result, BaseException) and not isinstance(result, UserError):
                raise result
            self._stalled_in_a_row = 0
            self.results[index] = result
            n_collected += 1
        return n_collected

    def _abandon_stalled(self) -> int:
        """Give up the items whose reader had no heartbeat for too long, with a new thread for each; how many."""
        now, n_abandoned = time.monotonic(), 0
        was_suspended, self._last_poll = now - self._last_poll > self.timeout / 2, now
        if was_suspended:  # with the whole process, so that the readers were not waiting for the drive
            return 0
        for reader in list(self._readers):
            with self._lock:  # so that the reader can't take another item meanwhile
                since = reader.last_heartbeat
                if since is None or now - since < self.timeout:
                    continue
                reader.is_abandoned = True
            self._readers.remove(reader)
            path = escape_unprintable(str(self.path_of(self.items[reader.index])))
            self._stalled_in_a_row += 1
            if self._stalled_in_a_row > MAX_STALLED_IN_A_ROW:
                raise drive_lost(path)
            cause = f"the drive did not respond for {self.timeout:g} seconds."
            self.results[reader.index] = UnusableFile(path, "stalled", cause)
            self._stalled.add(reader.index)
            n_abandoned += 1
            self._start_reader()
        return n_abandoned
