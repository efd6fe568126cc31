"""Interrupted runs: found in the event logs on disk, so that they are also found after a crash or a kill."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.runs.throughput import last_events
from dreambooth.settings import ModelFolder
from dreambooth.text import count, format_bytes
from dreambooth.training import lineage
from dreambooth.training.lineage import SnapshotEntry
from dreambooth.training.snapshot_list import format_time, last_record, list_snapshots

_LOGS = 20  # how many of the newest logs are read to find the last one of a run that trained


@dataclass(frozen=True)
class InterruptedRun:
    """A run that can be resumed: its last logged step, and its newest snapshot."""

    step: int
    total: int  # steps of the whole run; 0 if unknown
    stopped: float  # time of its last event, in seconds since 1970
    snapshot: SnapshotEntry

    @property
    def revision(self) -> int:
        return self.snapshot.revision

    def summary(self, name: str) -> str:
        """What was interrupted, and what was saved of it."""
        of_total = f" of {self.total:,}" if self.total else ""
        lost = self.step - self.snapshot.step
        loses = f"; {count(lost, 'step')} to repeat" if lost > 0 else ""
        return (
            f"The last run of {name} was interrupted at step {self.step:,}{of_total}. It can be resumed from snapshot "
            f"{self.snapshot.name}: step {self.snapshot.step:,}, {self._saved()}, "
            f"{format_bytes(self.snapshot.n_bytes)}{loses}."
        )

    def _saved(self) -> str:
        """When the snapshot was saved, and how long before the interruption."""
        when, seconds = f"saved {format_time(self.snapshot.saved)}", self.stopped - self.snapshot.saved
        if seconds < 60:  # also if a clock was set back
            return when
        minutes = round(seconds / 60)
        return f"{when}, {f'{minutes} min' if minutes < 120 else f'{round(minutes / 60)} h'} before the interruption"

    def offer(self, name: str, command: str = "") -> str:
        """One line for the user, with the command that resumes the run."""
        return f"{self.summary(name)} To continue it instead of starting over: {command or resume_command(name)}"


def resume_command(name: str) -> str:
    return f"python -m dreambooth train {json.dumps(name, ensure_ascii=False)} --resume"


def interrupted_run(model: ModelFolder) -> InterruptedRun | None:
    """The model's last run, if it crashed, failed or was canceled and left a snapshot of its own. Never raises."""
    try:
        logged = _last_training(model.logging)
        newest = list_snapshots(model).newest
        if logged is None or logged.done or newest is None or not lineage.resumable(newest, last_record(model)):
            return None
        if newest.saved < logged.started and not logged.resumed:
            return None  # of the run before: this one left none
        return InterruptedRun(logged.step, logged.total, logged.stopped, newest)
    except Exception:  # whatever is damaged: resuming reports it; here it only means that there is nothing to offer
        return None


@dataclass(frozen=True)
class _LoggedRun:
    started: float
    resumed: bool
    step: int
    total: int
    stopped: float
    done: bool


def _last_training(folder: Path) -> _LoggedRun | None:
    """The newest run that trained a step. Later ones that were refused, or had nothing to train, are passed over."""
    for log in sorted(folder.glob("run_*.jsonl"), reverse=True)[:_LOGS]:
        status = log.stat()
        found = _read_log(log, (status.st_mtime_ns, status.st_size))
        if found:
            return found
    return None


@functools.lru_cache(maxsize=256)
def _read_log(log: Path, state: tuple[int, int]) -> _LoggedRun | None:
    """``state``: time and size of the file, part of the cache key."""
    events = last_events(log)
    steps = [event for event in events if event.get("kind") == "step"]
    if not steps:
        return None
    states = [event.get("state") for event in events if event.get("kind") == "ended"]
    with log.open("rb") as file:
        first = _parsed(file.readline(1 << 20))
    return _LoggedRun(
        started=float(first.get("time") or 0.0),
        resumed=bool(first.get("resume", True)),  # older logs do not say
        step=int(steps[-1]["step"]),
        total=int(steps[-1].get("total") or 0),
        stopped=max((float(event.get("time") or 0.0) for event in events), default=0.0),
        done=states[-1:] == ["done"],
    )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
