"""Atomic file writes (temporary file, fsync, rename), bounded reads, and the messages for operating system errors.

A reader finds either the old file or the complete new one, never a partial one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.json_text import decode_json
from dreambooth.text import format_bytes

_BLOCK = 2**16  # bytes per read: the buffer is this large however short the file is
_LARGEST_JSON = 2**28  # bytes; about the size of the undo list of a million prepared images
_MAX_NAME_BYTES = 240  # of a name before the suffix of temporary files; file systems allow 255 in all
# Names made by _temporary_path(), and no others: files of other programs must not be removed.
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>part|old)", re.DOTALL)


def as_user_error(error: OSError, path: Path, action: str = "write") -> UserError:
    """The message for an operating system error while ``action`` ("write", "read", ...) was done to ``path``."""
    if error.errno == errno.ENOSPC:
        return UserError(f"The disk is full: could not {action} {path}. Free some space; existing files are intact.")
    if action == "read" and error.errno in (errno.EACCES, errno.EPERM):
        return UserError(f"No permission to read {path}: grant your user read access, or choose another file.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"No permission to {action} {path}: make the folder writable, or choose another one.")
    return UserError(f"Could not {action} {path}: {error.strerror or error}.")


def expand_user(path: str | Path) -> Path:
    """Replace ``~`` by the home folder. Unlike ``Path.expanduser``, an unknown ``~user`` is left as it is."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces ``path`` if the block succeeds and is removed if not.

    ``durable=False`` skips fsync: for caches, which may be lost in a power cut. UserError when the disk refuses.
    """
    path = Path(path)
    temporary = _temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        raise as_user_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, timeout: float, busy: Callable[[], str], required: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``, which excludes all other threads and processes; the system releases a dead one's.

    ``busy``: the message when it is not free within ``timeout`` seconds. ``required=False``: go on without a lock on a
    network drive that has none. UserError otherwise, and when the file can't be written.
    """
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(str(path))
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        raise UserError(busy()) from None
    except OSError as error:
        raise as_user_error(error, path.parent) from error
    except NotImplementedError:
        if required:
            raise UserError(f"{path.parent}: this drive can't lock files. Move the models to another drive.") from None
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def atomic_folder(path: Path, keep_old_as: Path | None = None) -> Iterator[Path]:
    """As :func:`atomic_write`, for a whole folder. The old folder is renamed first and removed last.

    ``keep_old_as``: an unused path in the same folder, to which the old folder is moved instead of being removed.
    """
    path = Path(path)
    temporary = _temporary_path(path)
    old_folder = temporary.with_suffix(".old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            os.replace(path, old_folder)
        try:
            os.replace(temporary, path)
        except OSError:
            if old_folder.exists():
                os.replace(old_folder, path)
            raise
        if keep_old_as is not None and old_folder.exists():
            os.replace(old_folder, keep_old_as)
        _sync(path.parent)
    except OSError as error:
        raise as_user_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old_folder, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Undo an :func:`atomic_folder` that was killed between its two renames: put the old folder back."""
    path = Path(path)
    if path.exists() or not path.parent.is_dir():
        return
    for old_folder in path.parent.glob(f".{path.name}.*.old"):
        os.replace(old_folder, path)
        return


def remove_folder(path: Path) -> None:
    """Delete a folder. It is renamed first, so that a kill leaves a temporary file and not half a folder.

    Errors are ignored: what can't be deleted stays.
    """
    temporary = _temporary_path(Path(path))
    try:
        os.replace(path, temporary)
    except OSError:
        temporary = Path(path)
    shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path, older_than: float = 3600) -> None:
    """Remove what killed processes left behind. Files younger than ``older_than`` seconds may still be in use."""
    if not folder.is_dir():
        return
    for leftover in folder.glob(".*"):
        ours = _TEMPORARY.fullmatch(leftover.name)
        if not ours or (ours["kind"] == "old" and not (folder / ours["name"]).exists()):
            continue
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > older_than:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=4, ensure_ascii=False) + "\n")


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most ``max_bytes``.

    UserError for a larger one, which could exhaust memory, and for pipes and devices, which may never end; OSError
    when it can't be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise UserError(f"{path} is {kind}, but a file is expected here: choose a file.")
    blocks, remaining = [], max_bytes + 1  # not the file's size, which may grow
    with open(path, "rb", buffering=0) as file:
        while remaining and (block := file.read(min(remaining, _BLOCK))):
            blocks.append(block)
            remaining -= len(block)
    data = b"".join(blocks)
    if not remaining:
        size = format_bytes(max(status.st_size, len(data)))
        raise UserError(f"{path} is {size}; expected at most {format_bytes(max_bytes)}. Is this the right file?")
    return data


def read_json(path: Path, max_bytes: int = _LARGEST_JSON, by_hand: bool = False) -> Any:
    """The parsed file. UserError when it is missing, unreadable, larger than ``max_bytes`` or not JSON.

    ``by_hand``: people write such files, so single backslashes in paths are expected.
    """
    try:
        data = read_bounded(Path(path), max_bytes)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise as_user_error(error, Path(path), "read") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not a valid file name: correct the path.") from error
    return decode_json(data, str(path), by_hand)


def numbered_names(path: Path) -> Iterator[Path]:
    """``path``, then the same with _2, _3, ... before the file extension."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}_{number}{path.suffix}")


def existing_part(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    path = Path(path)
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return path


def write_problem(path: Path) -> str:
    """Why a file could not be written to ``path``, with the fix; "" if it could. Missing folders are not made."""
    folder = existing_part(Path(path).parent)
    broken = next(
        (place for place in (path, *Path(path).parents) if os.path.islink(place) and not place.exists()), None
    )
    if broken is not None:
        return f"{broken} is a link to a place that does not exist: connect its drive, or remove the link."
    if not os.path.isdir(folder):
        return f"{folder} is a file, but a folder is needed there: rename or move the file."
    probe = folder / _temporary_path(path).name
    try:
        with open(probe, "xb"):
            pass
        os.unlink(probe)
    except OSError as error:
        return str(as_user_error(error, path))
    return ""


def require_free_space(folder: Path, n_bytes: int, task: str) -> None:
    """UserError when ``folder`` has less than ``n_bytes`` free, so that ``task`` does not fail halfway."""
    free = shutil.disk_usage(existing_part(folder)).free
    if free < n_bytes:
        raise UserError(
            f"{task} needs {format_bytes(n_bytes)} in {folder}, but only {format_bytes(free)} is free: free some space."
        )


def content_hash(path: Path, on_read: Callable[[int], None] | None = None) -> str:
    """sha256 of the file's bytes, in hex. ``on_read`` gets the number of bytes of each block that was read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if on_read:
                on_read(len(block))
    return digest.hexdigest()


def _temporary_path(path: Path) -> Path:
    """A hidden name with an extension that no program takes for a model or an image, in case the process is killed."""
    name = path.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = os.fsencode(name)[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
    return path.with_name(f".{name}.{uuid.uuid4().hex[:8]}.part")


def _sync(path: Path) -> None:
    """fsync a file or folder. Windows and some network shares can't sync folders and do it themselves."""
    if path.is_dir():
        with contextlib.suppress(OSError):
            _sync_with(path, os.O_RDONLY)
    elif path.exists():
        _sync_with(path, os.O_RDWR)


def _sync_with(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
