"""The nightly part: what runs first, and which tests still end in time."""

from __future__ import annotations

from collections import Counter

import pytest

# A nightly test takes at most this long on two cores, unless its marker says otherwise: nightly(minutes=10).
MINUTES = 5


def sort(items: list[pytest.Item]) -> None:
    """Kill tests first; then single tests before those with many parameters, which matter less each."""
    functions = [item.nodeid.partition("[")[0] for item in items]
    counts = Counter(functions)
    items.sort(key=lambda item: (not is_kill_test(item), counts[item.nodeid.partition("[")[0]]))


def is_kill_test(item: pytest.Item) -> bool:
    return "killed" in item.nodeid.partition("[")[0]


def seconds_allowed(item: pytest.Item) -> float:
    """What a test must have left to start."""
    marker = item.get_closest_marker("nightly")
    return 60.0 * (marker.kwargs.get("minutes", MINUTES) if marker else MINUTES)
