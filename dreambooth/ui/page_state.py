"""Everything that the page shows of a model and its run at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PageState:
    """Contents of the page's parts, and which buttons can be pressed. Compared field by field by the poller."""

    names: tuple[str, ...]  # of all models
    status: str
    progress_bar: str
    chart: str
    model_summary: str
    resume_offer: str  # what can be continued, "" if nothing
    samples: tuple[tuple[str, str], ...]  # (path, caption)
    files: str
    idle: bool  # no job is running
    training: bool
    paused: bool
    locked: bool  # a job works on the model that is shown
    disabled_reason: str  # why some buttons are disabled
