"""Interrupted runs: found in the log on disk, so that they are also found after a crash."""

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
    """A run that can be resumed: its last logged step, and its newest snapshot."""

    step: int
    revision: int  # the newest snapshot

    def offer(self, name: str) -> str:
        """One line for the user, with the command that resumes the run."""
        return (
            f"The last run of {name} was interrupted at step {self.step}. To resume from snapshot {self.revision} "
            f"instead of starting over: python -m dreambooth train {json.dumps(name)} --resume"
        )


def interrupted_run(model: ModelFolder) -> InterruptedRun | None:
    """The model's last run, if it crashed, failed or was cancelled and left a snapshot of its own."""
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
    except Exception:  # resuming reports what is wrong; here it only means that there is nothing to offer
        return None
    return InterruptedRun(reached[-1], steps[-1]) if is_its_own else None


def belongs(snapshot: Mapping[str, Any], model: ModelInfo) -> bool:
    """Whether a snapshot is of the run that trained the model last.

    A run that was killed before its first save was recorded leaves the run before it as the model's last.
    """
    return model.run in (snapshot["run"], snapshot.get("run_before"))
