"""SQLite cache of image metadata (size, hash, findings, fingerprint), so that unchanged files are not decoded again.

A file is unchanged while its path, size, modification time and inode are. A file written less than two seconds before
it was read is not cached: a second write within the same clock tick would go unnoticed (git calls such entries racily
clean). Training verifies the content by its hash in any case.

The cache only saves time: a damaged database is deleted and recreated, and one that can't be opened is not used.
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

_VERSION = 3  # increased when the values of a file change
_MIN_AGE = 2 * 10**9  # ns
_ROWS_PER_WRITE = 500
_LOCK_TIMEOUT = 1.0  # seconds to wait for another process that writes

# Column names are part of the file format: "changed" is the modification time, "rules" the version, "told" the JSON.
_TABLE = """CREATE TABLE IF NOT EXISTS pictures (
    path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, inode INTEGER, rules TEXT, told TEXT) WITHOUT ROWID"""


class ImageMetadataCache:
    """The database, opened while a folder is read; a context manager. Thread-safe."""

    def __init__(self, path: Path) -> None:
        import PIL

        self._path = path
        self._version = f"{_VERSION}, Pillow {PIL.__version__}"
        self._lock = threading.Lock()
        self._real_folders: dict[str, str] = {}
        self._rows: dict[bytes, tuple] = {}  # cached rows of the files in _loaded_folders
        self._loaded_folders: set[bytes] = set()
        self._unwritten: list[tuple] = []
        self._database = self._open()

    def __enter__(self) -> ImageMetadataCache:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._lock:
            self._write()
            self._close()

    def get(self, path: str | Path, status: os.stat_result) -> dict[str, Any] | None:
        """The values that :meth:`put` stored for this version of the file; None if there are none."""
        with self._lock:
            key = self._key(path)
            self._load_folder(key)
            row = self._rows.get(key)
        if not row or row[:4] != (*_file_version(status), self._version):
            return None
        try:
            return json.loads(row[4])
        except (TypeError, ValueError):
            return None

    def put(self, path: str | Path, status: os.stat_result, values: dict[str, Any]) -> None:
        """Store the values (JSON types) of this version of the file."""
        if time.time_ns() - status.st_mtime_ns < _MIN_AGE:
            return
        with self._lock:
            key, row = self._key(path), (*_file_version(status), self._version, json.dumps(values))
            self._rows[key] = row  # another concept may use the same file
            self._unwritten.append((key, *row))
            if len(self._unwritten) >= _ROWS_PER_WRITE:
                self._write()

    def _load_folder(self, key: bytes) -> None:
        """Load all rows of the file's folder at once, which is several times faster than one by one."""
        folder = os.path.dirname(key)
        if folder in self._loaded_folders:
            return
        self._loaded_folders.add(folder)
        start = os.path.join(folder, b"")
        columns, end = "path, size, changed, inode, rules, told", start[:-1] + bytes([start[-1] + 1])
        rows = self._query(f"SELECT {columns} FROM pictures WHERE path >= ? AND path < ?", (start, end))
        self._rows = {path: tuple(row) for path, *row in rows} | self._rows

    def _key(self, path: str | Path) -> bytes:
        """The real path as bytes, since names may not be valid text."""
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return os.fsencode(os.path.join(self._real_folders[folder], name))

    def _open(self) -> sqlite3.Connection | None:
        for _ in range(2):  # the second attempt after deleting a damaged file
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT, check_same_thread=False)
                database.execute("PRAGMA synchronous = OFF")
                database.execute(_TABLE)
                return database
            except (sqlite3.Error, OSError) as error:
                self._give_up(error)
        return None

    def _query(self, statement: str, values: tuple) -> list[tuple]:
        if self._database is None:
            return []
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return []

    def _write(self) -> None:
        if self._database is not None and self._unwritten:
            insert = "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)"
            try:
                with self._database:
                    self._database.executemany(insert, self._unwritten)
            except sqlite3.Error as error:
                self._give_up(error)
        self._unwritten.clear()

    def _give_up(self, error: Exception) -> None:
        """Continue without the cache; delete a damaged file, so that the next run recreates it."""
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


def _file_version(status: os.stat_result) -> tuple[int, int, int]:
    # Windows inodes may be unsigned 64-bit integers, SQLite's integers are signed.
    return status.st_size, status.st_mtime_ns, status.st_ino % 2**63
