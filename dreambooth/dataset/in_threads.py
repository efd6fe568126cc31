"""The same work on many files: in a few threads, in order, with the problems of some of them set apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dreambooth.errors import UserError

T, R = TypeVar("T"), TypeVar("R")
Progress = Callable[[int, int, str], None]

# Decoding and encoding leave Python's lock, so threads help; each holds a decoded picture or two, so few do.
_THREADS = min(4, os.cpu_count() or 1)


def each(
    items: Sequence[T], action: Callable[[T], R], progress: Progress | None, what: str
) -> tuple[list[R], list[str]]:
    """(results, problems) of an action on each, in their order; a UserError is the problem of one, not of all."""
    results, problems = [], []
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        pending = [pool.submit(action, item) for item in items]
        try:
            for done, future in enumerate(pending, start=1):
                try:
                    results.append(future.result())
                except UserError as error:
                    problems += error.problems
                if progress:
                    progress(done, len(items), what)
        except BaseException:  # cancelled, or the disk is full: leave without the rest
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results, problems
