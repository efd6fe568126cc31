"""The same work on many files: in a few threads, in order, with the problems of some of them set apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dreambooth.errors import UserError
from dreambooth.images.file_reader import read_all
from dreambooth.types import ProgressCallback

T = TypeVar("T")
R = TypeVar("R")


def each(
    items: Sequence[T],
    action: Callable[[T], R],
    progress: ProgressCallback | None,
    what: str,
    path_of: Callable[[T], object] = str,
) -> tuple[list[R], list[str]]:
    """(results, problems) of an action on each, in their order; a UserError is the problem of one, not of all.

    The action begins with ``read_bytes``, so that a drive that gives no answer is waited for as by :func:`read_all`.
    """

    def done(number: int) -> None:
        if progress:
            progress(number, len(items), what)

    results, problems = [], []
    for result in read_all(items, lambda item, _: action(item), done, path_of=path_of):
        if isinstance(result, UserError):
            problems += result.problems
        else:
            results.append(result)
    return results, problems
