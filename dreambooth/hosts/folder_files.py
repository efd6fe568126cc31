"""Model files in folders, as lists that the page offers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def files_in(folders: Iterable[Path], suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
    """(title, file) for the files with one of ``suffixes``, also in subfolders.

    The title is the path in its folder; the whole path where a file of another folder has the same.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
            title = path.relative_to(folder).as_posix()
            found[str(path) if title in found else title] = path
    return list(found.items())
