"""What a page is shown at each look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PageState:
    """What the page shows of a model and its run, and what can be pressed now. Compared part by part."""

    names: tuple[str, ...]
    status: str
    bar: str
    chart: str
    facts: str
    pictures: tuple[tuple[str, str], ...]
    files: str
    idle: bool  # nothing runs
    training: bool
    paused: bool
    locked: bool  # the model that is shown is the one at work
    why: str  # why some buttons can't be pressed
