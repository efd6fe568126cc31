"""Safe writing: beside, flush, fsync, rename. What a reader finds is either the old file or the new one, whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError

_BLOCK = 2**16  # bytes that are asked for at once: so many are set aside, however short the file is
_LARGEST_JSON = 2**28  # bytes; the list of a million files that were exchanged has about so many
_LONGEST = 240  # bytes of a name that stays whole there; disks take 255
# What _beside() names, and nothing that another program may have left.
_OURS = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>part|old)", re.DOTALL)


def explain(error: OSError, path: Path, doing: str = "write") -> UserError:
    """Turn an operating system's refusal into a line that names the file and the way out."""
    if error.errno == errno.ENOSPC:
        return UserError(f"The disk is full: could not {doing} {path}. Free some space; earlier files are whole.")
    if doing == "read" and error.errno in (errno.EACCES, errno.EPERM):
        return UserError(f"No permission to read {path}: allow it for your user or choose another one.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"No permission to {doing} {path}: make the folder writable or choose another one.")
    return UserError(f"Could not {doing} {path}: {error.strerror or error}.")


def expand(path: str | Path) -> Path:
    """``~`` as the home folder; unlike Path's own, it leaves a user that isn't there for others to refuse."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a path beside ``path``; when the block succeeds it takes the place of ``path``, else it vanishes.

    ``durable=False`` skips waiting for the disk: for caches, which may lose what they hold.
    """
    path = Path(path)
    beside = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        if durable:
            _sync(beside)
        os.replace(beside, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As :func:`replacing`, for a whole folder. The old folder is set aside first and removed last."""
    path = Path(path)
    beside = _beside(path)
    aside = beside.with_suffix(".old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            os.replace(path, aside)
        try:
            os.replace(beside, path)
        except OSError:
            if aside.exists():
                os.replace(aside, path)
            raise
        _sync(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Finish a :func:`replacing_folder` that was killed between its two renames: put the old folder back."""
    path = Path(path)
    if path.exists() or not path.parent.is_dir():
        return
    for aside in path.parent.glob(f".{path.name}.*.old"):
        os.replace(aside, path)
        return


def clear_leftovers(folder: Path, older_than: float = 3600) -> None:
    """Remove what a killed process left beside its targets. Young ones may be another process's work going on."""
    if not folder.is_dir():
        return
    for leftover in folder.glob(".*"):
        ours = _OURS.fullmatch(leftover.name)
        if not ours or (ours["kind"] == "old" and not (folder / ours["name"]).exists()):
            continue
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > older_than:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=4, ensure_ascii=False) + "\n")


def read_bounded(path: Path, most: int) -> bytes:
    """What a file of at most ``most`` bytes holds. UserError for a larger one, which would fill the memory, and for
    pipes and devices, which may never end; OSError as the system has it.
    """
    seen = os.stat(path)
    if not stat.S_ISREG(seen.st_mode):
        what = "a folder" if stat.S_ISDIR(seen.st_mode) else "a pipe, socket or device"
        raise UserError(f"{path}: is {what}, where a file should be. Remove it, or call it otherwise.")
    blocks, left = [], most + 1  # not its size, which may grow
    with open(path, "rb", buffering=0) as file:
        while left and (block := file.read(min(left, _BLOCK))):
            blocks.append(block)
            left -= len(block)
    data = b"".join(blocks)
    if not left:
        has = _size(max(seen.st_size, len(data)))
        raise UserError(f"{path}: has {has}, and such a file may have {_size(most)}. Is it what it should be?")
    return data


def read_json(path: Path, most: int = _LARGEST_JSON) -> Any:
    """The file's value. UserError when it is missing, unreadable, larger than ``most`` bytes or not JSON."""
    try:
        return json.loads(read_bounded(Path(path), most).decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise explain(error, Path(path), "read") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def require_free_space(folder: Path, n_bytes: int, what: str) -> None:
    """Refuse before a big write rather than in its middle."""
    existing = Path(folder)
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < n_bytes:
        raise UserError(f"{what} needs {_size(n_bytes)} in {folder}, but only {_size(free)} are free: make room first.")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def content_hash(path: Path) -> str:
    """sha256 of the file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _beside(path: Path) -> Path:
    """A name that no program takes for a model or a picture, should we be killed."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST:
        name = os.fsencode(name)[:_LONGEST].decode("utf-8", "ignore")
    return path.with_name(f".{name}.{uuid.uuid4().hex[:8]}.part")


def _sync(path: Path) -> None:
    """Make what was written survive a power cut. Windows and some network shares sync folders themselves."""
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
