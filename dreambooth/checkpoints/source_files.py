"""The files of a source as they were when the model was created: size, modification time and hash of the content."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.files import as_user_error, content_hash
from dreambooth.types import ProgressCallback

WHOLE = ""  # in place of a component: the file of all components that have none of their own


@dataclass(frozen=True)
class SourceFile:
    """``sha256`` is that of the file's bytes, in hex."""

    component: str  # its folder in working/, or WHOLE
    path: str
    size: int  # bytes
    mtime_ns: int
    sha256: str


def record_files(
    paths: Mapping[str, Sequence[Path]], progress: ProgressCallback | None = None
) -> tuple[SourceFile, ...]:
    """The files by component as they are now. ``progress`` counts MB. UserError if one can't be read."""
    return tuple(
        record_file(component, Path(os.path.abspath(path)), progress)
        for component, own in paths.items()
        for path in own
    )


def record_file(component: str, path: Path, progress: ProgressCallback | None = None) -> SourceFile:
    """One file as it is now, as :func:`record_files`."""
    n_read = 0

    def count_bytes(n_bytes: int) -> None:
        nonlocal n_read
        n_read += n_bytes
        if progress and status.st_size >> 20:
            progress(n_read >> 20, status.st_size >> 20, f"Hashing {path.name}")

    try:
        status = path.stat()
        sha256 = content_hash(path, count_bytes)
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    return SourceFile(component, str(path), status.st_size, status.st_mtime_ns, sha256)
