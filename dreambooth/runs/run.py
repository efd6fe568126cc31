"""One whole run: session, loop, previews and results put together, and taken apart whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import statistics
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.dataset.plan import Plan
from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.jobs import Controls, Events
from dreambooth.runs.previews import Previews
from dreambooth.settings import ModelConfig, ModelFolder
from dreambooth.training.imagic import keep, learn_embedding
from dreambooth.training.init_from_lora import find, start_from
from dreambooth.training.loop import NO_HOOKS, Hooks, Loop
from dreambooth.training.precision import free_memory
from dreambooth.training.reproducible import reproducible
from dreambooth.training.results import Results, unused_path
from dreambooth.training.session import Session
from dreambooth.training.snapshot import Snapshot, read
from dreambooth.training.snapshot_state import restore


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
    resume: str,
    controls: Controls,
    events: Events,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> RunResult:
    """Train to the end, or until cancelled. ``resume``: the snapshot to go on from; "": a new run."""
    snapshot = read(model, resume) if resume else None
    if config.settings.seed < 0:  # settled here, so that the saved settings go on asking for a new one each time
        seed = snapshot.settings["seed"] if snapshot else process_group.same(secrets.randbelow(2**31))
        config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, seed=seed))
        events.message(f"Training seed: {seed}.")
    try:
        with (
            reproducible(config.settings.deterministic),
            contextlib.closing(
                Session(model, config, plan, device, precision, controls, events, process_group)
            ) as session,
        ):
            results = Results(session)
            if snapshot:
                _go_on(session, results, snapshot)
                snapshot = None  # as large as the weights and their moments: not to be held while it trains
            else:
                _begin(session, results)
            hooks = Hooks(Previews(session, results).draw, results.save, results.validate)
            loop = Loop(session, hooks if process_group.is_main else NO_HOOKS)
            state = loop.run()
            seconds = statistics.median(loop.step_seconds) if loop.step_seconds else 0.0
            return RunResult(state, results.config, tuple(results.files), session.position.step, seconds)
    except BaseException as error:
        _forget_locals(error)
        free_memory(device)
        raise


def _go_on(session: Session, results: Results, snapshot: Snapshot) -> None:
    results.resumes(snapshot)
    for note in restore(session, snapshot):
        session.events.message(f"Not exactly the run that was stopped: {note}.", level="warning")
    session.events.message(f"Going on after step {session.position.step}.")


def _begin(session: Session, results: Results) -> None:
    """What a new run does before its first step."""
    if session.settings.use_lora and session.settings.lora_start.strip():
        _start_from_lora(session)
    if session.imagic:
        learn_embedding(session, session.imagic)
        if session.process_group.is_main:
            path = unused_path(session.model.embeddings / f"{results.revision}.safetensors")
            keep(session.imagic, path)
            session.events.send("saved", what="embedding", path=str(path), summary="of the picture and of the text")


def _start_from_lora(session: Session) -> None:
    path = find(session.model.folders, session.settings.lora_start)
    n = start_from(path, session.layers, session.model)
    session.events.message(f"Starting from {path.name}: {n} of {len(session.layers)} adapters.")


def _forget_locals(error: BaseException | None) -> None:
    """The frames of a traceback hold modules, and whoever asks how the run ended may keep the error for long."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
