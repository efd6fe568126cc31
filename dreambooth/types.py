"""Types that all layers share."""

from __future__ import annotations

from collections.abc import Callable

# How far a task is: items done, items in total, and what they are.
ProgressCallback = Callable[[int, int, str], None]
