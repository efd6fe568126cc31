"""Training speed of the last run, from its log."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from dreambooth.jobs import latest_log
from dreambooth.settings import ModelFolder

_END = 1 << 16  # bytes read from the end of a log: hundreds of steps
_STEPS = 20  # the last ones


def last_events(log: Path) -> list[dict[str, Any]]:
    """The events at the end of a log. Lines that are cut off at either end are skipped."""
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _END))
        lines = file.read().splitlines()
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        events += [event] if isinstance(event, dict) else []
    return events


def seconds_per_step(model: ModelFolder) -> float | None:
    """Median over the last steps of the last run; None if there are none."""
    log = latest_log(model.logging)
    events = last_events(log) if log else []
    seconds = [event["seconds"] for event in events if event.get("kind") == "step" and event.get("seconds")]
    return statistics.median(seconds[-_STEPS:]) if seconds else None
