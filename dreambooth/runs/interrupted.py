"""Whether a model's last run broke off, as its log on disk tells: after a crash nobody else knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth.files import read_json
from dreambooth.jobs import latest_log
from dreambooth.runs.throughput import last_events
from dreambooth.settings import ModelFolder, ModelInfo


@dataclass(frozen=True)
class InterruptedRun:
    """A run that ended without its end: the last step that is known of it, and the snapshot to go on from."""

    step: int
    revision: int  # of the newest snapshot

    def offer(self, name: str) -> str:
        """In one line, with the command."""
        return (
            f"The last run of {name} broke off at step {self.step}. To go on from its snapshot ({self.revision}) in "
            f"place of starting anew: python -m dreambooth train {json.dumps(name)} --resume"
        )


def interrupted_run(model: ModelFolder) -> InterruptedRun | None:
    """The last run, if it broke off, failed or was cancelled and left a snapshot that it can go on from."""
    log, steps = latest_log(model.logging), model.snapshot_steps()
    if log is None or not steps:
        return None
    events = last_events(log)
    states = [event.get("state") for event in events if event.get("kind") == "ended"]
    reached = [event["step"] for event in events if event.get("kind") == "step"]
    if states[-1:] == ["done"] or not reached:
        return None
    try:
        facts = read_json(model.snapshots / str(steps[-1]) / "snapshot.json")["facts"]
        is_its_own = belongs(facts, model.load().info)
    except Exception:  # whatever is wrong with it, a run will say so; here it only means: no offer
        return None
    return InterruptedRun(reached[-1], steps[-1]) if is_its_own else None


def belongs(snapshot: Mapping[str, Any], model: ModelInfo) -> bool:
    """Whether the run that made a snapshot with these facts is the one that trained the model last.

    Killed before its first save was noted, a run leaves the one before it as the model's last.
    """
    return model.run in (snapshot["run"], snapshot.get("run_before"))
