"""What earlier readings of pictures told, kept on disk: a file that is the same as then isn't read again.

A file is the same while its path, size, time of change and inode are. One that was written less than two seconds
before it was read is not kept: another write within the same tick of the clock would go unnoticed (git calls such
entries racily clean). What is trained is in any case verified by its content.

The database only saves time. A damaged one is begun anew, one that can't be opened or written is done without.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger("dreambooth.dataset")

_RULES = 2  # higher when a reading tells something else than before
_SETTLED = 2 * 10**9  # ns
_AT_ONCE = 500  # rows that are written together
_WAIT = 1.0  # seconds for another process that writes

_TABLE = """CREATE TABLE IF NOT EXISTS pictures (
    path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, inode INTEGER, rules TEXT, told TEXT) WITHOUT ROWID"""


class ImageMetadataCache:
    """The database, while a folder is examined. May be used by several threads."""

    def __init__(self, path: Path) -> None:
        import PIL

        self._path = path
        self._rules = f"{_RULES}, Pillow {PIL.__version__}"
        self._lock = threading.Lock()
        self._folders: dict[str, str] = {}
        self._kept: dict[bytes, tuple] = {}  # what is known of the files in the folders below
        self._looked_up: set[bytes] = set()
        self._new: list[tuple] = []
        self._database = self._opened()

    def __enter__(self) -> ImageMetadataCache:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._lock:
            self._write()
            self._close()

    def get(self, path: str | Path, state: os.stat_result) -> dict[str, Any] | None:
        """What :meth:`put` was given for the file in this state."""
        with self._lock:
            key = self._key(path)
            self._look_up(key)
            row = self._kept.get(key)
        if not row or row[:4] != (*_mark(state), self._rules):
            return None
        try:
            return json.loads(row[4])
        except (TypeError, ValueError):
            return None

    def put(self, path: str | Path, state: os.stat_result, told: dict[str, Any]) -> None:
        """Keep what can be told of the file in this state, as plain values."""
        if time.time_ns() - state.st_mtime_ns < _SETTLED:
            return
        with self._lock:
            key, row = self._key(path), (*_mark(state), self._rules, json.dumps(told))
            self._kept[key] = row  # another concept may name it too
            self._new.append((key, *row))
            if len(self._new) >= _AT_ONCE:
                self._write()

    def _look_up(self, key: bytes) -> None:
        """All that is kept of the files in its folder, at once: one by one takes several times as long."""
        folder = os.path.dirname(key)
        if folder in self._looked_up:
            return
        self._looked_up.add(folder)
        own = os.path.join(folder, b"")
        columns, until = "path, size, changed, inode, rules, told", own[:-1] + bytes([own[-1] + 1])
        rows = self._do(f"SELECT {columns} FROM pictures WHERE path >= ? AND path < ?", (own, until))
        self._kept = {path: tuple(row) for path, *row in rows} | self._kept

    def _key(self, path: str | Path) -> bytes:
        """As bytes, since names may be no text."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.fsencode(os.path.join(self._folders[folder], name))

    def _opened(self) -> sqlite3.Connection | None:
        for _ in range(2):  # the second time without what was damaged
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self._path, timeout=_WAIT, check_same_thread=False)
                database.execute("PRAGMA synchronous = OFF")
                database.execute(_TABLE)
                return database
            except (sqlite3.Error, OSError) as error:
                self._forget(error)
        return None

    def _do(self, statement: str, values: tuple) -> list[tuple]:
        if self._database is None:
            return []
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._forget(error)
            return []

    def _write(self) -> None:
        if self._database is not None and self._new:
            try:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", self._new)
            except sqlite3.Error as error:
                self._forget(error)
        self._new.clear()

    def _forget(self, error: Exception) -> None:
        """Go on without; what is damaged is removed, so that the next run begins anew."""
        log.debug("%s can't be used", self._path, exc_info=True)
        self._close()
        locked_or_unwritable = isinstance(error, (sqlite3.OperationalError, OSError))
        if not locked_or_unwritable:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _close(self) -> None:
        database, self._database = getattr(self, "_database", None), None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()


def _mark(state: os.stat_result) -> tuple[int, int, int]:
    # An inode of Windows may have 64 bits without a sign, SQLite's integers have one.
    return state.st_size, state.st_mtime_ns, state.st_ino % 2**63
