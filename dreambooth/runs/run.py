"""One training run: session, loop, previews and results, released whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import statistics
from dataclasses import dataclass
from pathlib import Path

from dreambooth.checkpoints.lora_tags import find_lora
from dreambooth.errors import UserError
from dreambooth.jobs import FileSaved
from dreambooth.memory.out_of_memory import is_out_of_memory
from dreambooth.memory.release import clear_frames, free_memory
from dreambooth.runs import resume_checks
from dreambooth.runs.memory_need import peaks_text
from dreambooth.runs.previews import Previews
from dreambooth.settings import ModelConfig
from dreambooth.training.compiled_blocks import compiled_blocks, unavailable_reason
from dreambooth.training.context import RunContext
from dreambooth.training.gpu_kernels import gpu_kernels
from dreambooth.training.imagic import optimize_embedding, save_embeddings
from dreambooth.training.init_from_lora import init_adapters
from dreambooth.training.lineage import SnapshotEntry
from dreambooth.training.loop import NO_HOOKS, Hooks, Loop
from dreambooth.training.reproducible import reproducible
from dreambooth.training.results import Results, unused_path
from dreambooth.training.session import Session
from dreambooth.training.snapshot import Snapshot, find_entry, mark_resumed, read_snapshot
from dreambooth.training.snapshot_list import format_time
from dreambooth.training.snapshot_state import restore_snapshot

log = logging.getLogger("dreambooth.training")


@dataclass(frozen=True)
class RunResult:
    """How a run ended ("done" or "cancelled") and the files that it made. ``message``: why it had nothing to do."""

    state: str
    config: ModelConfig
    files: tuple[Path, ...]
    steps: int
    seconds_per_step: float
    message: str = ""


def run(context: RunContext) -> RunResult:
    """Train to the end, or until cancelled."""
    entry = find_entry(context.model, context.resume) if context.resume else None
    snapshot = read_snapshot(context.model, entry.name) if entry else None
    context = _with_seed(context, snapshot)
    try:
        with (
            gpu_kernels(context.config.settings, context.device),
            reproducible(context.config.settings.deterministic),
            contextlib.closing(Session(context)) as session,
            _compiled(session),
        ):
            results = Results(session)
            if snapshot and entry:
                _resume(session, results, snapshot, entry)
                snapshot = None  # as large as the weights and the optimizer state: not held while training
            else:
                _begin(session, results)
            hooks = Hooks(Previews(session, results).generate, results.save, results.validate)
            loop = Loop(session, hooks if context.process_group.is_main_process else NO_HOOKS)
            state = _train(loop, results)
            if text := peaks_text(session.memory_peaks, context.memory):
                context.events.message(text)
            seconds = statistics.median(loop.step_seconds) if loop.step_seconds else 0.0
            return RunResult(state, results.config, tuple(results.files), session.position.step, seconds)
    except BaseException as error:
        clear_frames(error)
        free_memory()
        raise


def _compiled(session: Session) -> contextlib.AbstractContextManager[None]:
    """Why it is not available has been said by the preflight."""
    if not session.settings.torch_compile or unavailable_reason(session.settings, session.device):
        return contextlib.nullcontext()
    session.events.message("The first steps are slow: the model's blocks are compiled.")
    return compiled_blocks(session.modules.denoiser)


def _train(loop: Loop, results: Results) -> str:
    """Returns "done" or "cancelled". Before out of memory ends the run, its progress is saved."""
    try:
        return loop.run()
    except Exception as error:
        if is_out_of_memory(error) and loop.process_group.is_main_process:
            log.error("out of memory", exc_info=error)
            clear_frames(error)
            loop.step_runner.release()
            results.rescue(in_step=loop.step_runner.is_updating)
        raise


def _with_seed(context: RunContext, snapshot: Snapshot | None) -> RunContext:
    """The run with its seed: a negative one is replaced by a random one, which all ranks share.

    Replaced only here, so that the saved settings keep asking for a new seed in each run.
    """
    config = context.config
    if config.settings.seed >= 0:
        return context
    seed = snapshot.settings["seed"] if snapshot else context.process_group.broadcast(secrets.randbelow(2**31))
    context.events.message(f"Training seed: {seed}.")
    config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, seed=seed))
    return dataclasses.replace(context, config=config)


def _resume(session: Session, results: Results, snapshot: Snapshot, entry: SnapshotEntry) -> None:
    results.continue_run(snapshot, entry.folder)
    for difference in restore_snapshot(session, snapshot):
        session.events.message(f"The resumed run differs from the original: {difference}.", level="warning")
    session.events.message(
        f"Resuming from step {session.position.step} (snapshot {entry.name}, saved {format_time(entry.saved)})."
    )
    if session.process_group.is_main_process:
        for text in resume_checks.left_behind(session.model, entry, session.settings.snapshots_to_keep):
            session.events.message(text)
        with contextlib.suppress(UserError):  # a snapshot that can't be written to can still be resumed
            mark_resumed(session.model, entry.name)


def _begin(session: Session, results: Results) -> None:
    """Prepare a new run: adapters that start from a LoRA, Imagic's text embedding."""
    if session.settings.use_lora and session.settings.lora_start.strip():
        _start_from_lora(session)
    if session.imagic:
        optimize_embedding(session, session.imagic)
        if session.process_group.is_main_process:
            path = unused_path(session.model.embeddings / f"{results.revision}.safetensors")
            save_embeddings(session.imagic, path)
            session.events.send(FileSaved("embedding", str(path), summary="optimized and target embedding"))


def _start_from_lora(session: Session) -> None:
    path = find_lora(session.model.folders, session.settings.lora_start)
    n = init_adapters(path, session.layers, session.model)
    session.events.message(f"Starting from {path.name}: {n} of {len(session.layers)} adapters.")
