"""One whole run: session, loop, previews and results put together, and taken apart whatever happens."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.dataset.plan import Plan
from dreambooth.jobs import Controls, Events
from dreambooth.runs.previews import Previews
from dreambooth.settings import ModelConfig, ModelFolder
from dreambooth.training.loop import Hooks, Loop
from dreambooth.training.results import Results
from dreambooth.training.session import Session
from dreambooth.training.snapshot import read_latest


@dataclass(frozen=True)
class RunResult:
    """How a run ended ("done" or "cancelled") and what it left."""

    state: str
    config: ModelConfig
    files: tuple[Path, ...]
    steps: int
    seconds_per_step: float


def run(
    model: ModelFolder,
    config: ModelConfig,
    plan: Plan,
    device: torch.device,
    precision: str,
    resume: bool,
    controls: Controls,
    events: Events,
) -> RunResult:
    """Train to the end, or until cancelled. ``resume`` goes on from the newest snapshot."""
    snapshot = read_latest(model) if resume else None
    session = Session(model, config, plan, device, precision, controls, events)
    try:
        results = Results(session)
        if snapshot:
            for note in session.restore(snapshot):
                events.message(f"Not exactly the run that was stopped: {note}.", level="warning")
            results.revision_at_start = snapshot.facts["revision_at_start"]
            results.epoch_at_start = snapshot.facts["epoch_at_start"]
            events.message(f"Going on after step {session.position.step}.")
        loop = Loop(session, Hooks(Previews(session, results).draw, results.save))
        state = loop.run()
        seconds = statistics.median(loop.step_seconds) if loop.step_seconds else 0.0
        return RunResult(state, results.config, tuple(results.files), session.position.step, seconds)
    finally:
        session.close()
