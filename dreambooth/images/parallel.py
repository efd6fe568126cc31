"""Map a function over files in a few threads, in order, collecting the problems of single files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dreambooth.errors import UserError
from dreambooth.images.file_reader import read_all
from dreambooth.types import ProgressCallback

T = TypeVar("T")
R = TypeVar("R")


def map_files(
    items: Sequence[T],
    function: Callable[[T], R],
    progress: ProgressCallback | None,
    phase: str,
    path_of: Callable[[T], object] = str,
) -> tuple[list[R], list[str]]:
    """(results, problems) of ``function`` for each item, in order; a UserError is a problem of its item alone.

    The function begins with ``read_bytes``, so that a drive that stops responding is given up as by :func:`read_all`.
    """

    def on_done(n_done: int) -> None:
        if progress:
            progress(n_done, len(items), phase)

    results, problems = [], []
    for result in read_all(items, lambda item, _: function(item), on_done, path_of=path_of):
        if isinstance(result, UserError):
            problems += result.problems
        else:
            results.append(result)
    return results, problems
