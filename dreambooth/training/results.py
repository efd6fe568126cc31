"""Results of a run: LoRA files, the model's working folder, checkpoints, snapshots. All are verified after writing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import torch

from dreambooth.checkpoints.lora_file import write_lora
from dreambooth.checkpoints.modules import save_component
from dreambooth.checkpoints.single_file import Ema, write_checkpoint
from dreambooth.checkpoints.verify import Verification, verify_checkpoint, verify_lora
from dreambooth.errors import UserError
from dreambooth.files import write_json
from dreambooth.jobs.events import FileSaved, ValidationMeasured
from dreambooth.memory.out_of_memory import OUT_OF_MEMORY, is_out_of_memory
from dreambooth.memory.release import release_after
from dreambooth.models.sd.ldm_config import ENDING
from dreambooth.settings import ModelConfig, ModelFolder
from dreambooth.training.adapters import collect_adapters
from dreambooth.training.lora_spelling import respelled
from dreambooth.training.metadata import (
    TRAINING_METADATA,
    checkpoint_metadata,
    modelspec,
    thumbnail,
    training_metadata,
)
from dreambooth.training.scheduled_tasks import AUTOMATIC, outputs_to_save, saves_final_results
from dreambooth.training.session import Session
from dreambooth.training.snapshot import Snapshot, is_saved, mark_snapshot, remove_automatic, write_snapshot
from dreambooth.training.snapshot_state import take_snapshot
from dreambooth.training.validation import Validation

log = logging.getLogger("dreambooth.training")


class Results:
    """Saves a session's results as its settings say. ``config`` follows the facts in db_config.json."""

    def __init__(self, session: Session) -> None:
        self.session, self.model = session, session.model
        self.config, self.settings = session.config, session.settings
        self.revision_at_start = session.config.info.revision
        self.epoch_at_start = session.config.info.epoch
        self.run, self.run_before = uuid.uuid4().hex, session.config.info.run
        self.branch = uuid.uuid4().hex  # of this start of the run, see lineage.py
        self.path: list[tuple[str, int]] = []
        self.resumed_from: Path | None = None
        self.first_step = 0
        self.started = time.time()
        self.files: list[Path] = []
        self._autosave_failed = False
        self.validation = Validation(session) if self.settings.validation_every else None

    @property
    def revision(self) -> int:
        """Optimizer steps of all runs of the model."""
        return self.revision_at_start + self.session.position.step

    def save(self, when: str) -> None:
        """Save what the settings ask for on this occasion.

        ``when``: "during" (an interval), "after", "cancel", "now" (a request), "auto" or "shutdown" (a snapshot alone).

        A failure does not prevent the other results. During the run it is reported and training continues, since the
        weights are still in memory; at the end a rescue snapshot is saved if possible.
        """
        step = self.session.position.step
        if step == 0 or (step == self.first_step and when in ("cancel", *AUTOMATIC)):
            return  # nothing was trained: the snapshot that the run was resumed from is still there
        problems: list[str] = []
        for save in self._save_functions(when):
            try:
                save()
            except Exception as error:  # of any kind: it must not lose the trained weights
                log.error("saving failed", exc_info=error)
                problems += _problems_of(error)
        if not problems:
            if when == "after":
                self._finish()
            return
        if when == "auto":
            self._report_failed_autosave(problems)
            return
        if when in ("during", "now"):
            self.session.events.message(f"Saving failed; training continues. {' '.join(problems)}", level="error")
            return
        if not getattr(self.settings, f"save_state_{when}"):
            self.rescue()
        raise UserError.from_problems(problems)

    def validate(self) -> None:
        """Measure the validation loss, once per step, and report it. Out of memory does not end the run."""
        if not self.validation:
            return
        try:
            result, is_new = self.validation.measure()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.error("validation failed", exc_info=error)
            release_after(error)
            text = f"The validation loss could not be measured ({OUT_OF_MEMORY}); training continues."
            self.session.events.message(text, level="error")
            return
        if is_new:
            self.session.events.send(
                ValidationMeasured(
                    step=result.step,
                    loss=round(result.loss, 6),
                    class_loss=None if result.class_loss is None else round(result.class_loss, 6),
                    losses={n + 1: round(loss, 6) for n, loss in result.losses.items()},
                    class_losses={n + 1: round(loss, 6) for n, loss in result.class_losses.items()},
                    best=result.step > 0 and result.loss == self.validation.lowest,
                )
            )

    def _save_functions(self, when: str) -> list[Callable[[], None]]:
        """The save functions of this occasion, in order."""
        functions = {
            "lora": self._lora,
            "working": self._working,
            "working and checkpoint": self._working_and_checkpoint,
            "snapshot": functools.partial(self._snapshot, when),
        }
        saves = [functions[output] for output in outputs_to_save(self.settings, when)]
        return saves if when in AUTOMATIC else [*saves, self._update_info]

    def _finish(self) -> None:
        """All results are saved: automatic snapshots are of no use, and resuming this state has nothing left to do."""
        with contextlib.suppress(Exception):
            if self.resumed_from and self.session.position.step == self.first_step:
                mark_snapshot(self.resumed_from, results_saved=True)
            remove_automatic(self.model)

    def _report_failed_autosave(self, problems: list[str]) -> None:
        if not self._autosave_failed:
            minutes = f"{self.settings.autosave_minutes:g}"
            self.session.events.message(
                f"The automatic snapshot could not be saved; training continues and tries again every {minutes} min, "
                f"without further messages. {' '.join(problems)}",
                level="warning",
            )
        self._autosave_failed = True

    def rescue(self, in_step: bool = False) -> None:
        """Save a snapshot after a failure, if anything was trained. ``in_step``: the optimizer was interrupted."""
        if self.session.position.step == self.first_step:
            return
        with contextlib.suppress(Exception):
            self._snapshot("rescue")
            if in_step:
                text = "A part of the weights in it has taken one step more than the others."
                self.session.events.message(text, level="warning")
            self.session.events.message(
                "Your progress is in a snapshot. Fix the cause, then resume to save it.", level="warning"
            )

    def _snapshot(self, when: str) -> None:
        automatic = when in AUTOMATIC
        if automatic and is_saved(self.model, self.revision, self.branch):
            return
        if not automatic:
            self.validate()
        validation = self.validation
        losses = {}
        if validation and math.isfinite(validation.lowest):
            losses = {"validation_lowest": validation.lowest}
        if validation and validation.last and not automatic:
            losses["validation_loss"] = validation.last.loss
        snapshot = take_snapshot(
            self.session,
            run=self.run,
            run_before=self.run_before,
            branch=self.branch,
            path=self.path,
            revision_at_start=self.revision_at_start,
            epoch_at_start=self.epoch_at_start,
            automatic=automatic,
            results_saved=when != "rescue" and saves_final_results(self.settings, when),
            **losses,
        )
        folder = write_snapshot(self.model, self.revision, snapshot, self.settings.snapshots_to_keep)
        self._update_info()
        summary = f"step {self.revision}{', automatic' if automatic else ''}"
        self.session.events.send(FileSaved("snapshot", str(folder), summary=summary))

    def continue_run(self, snapshot: Snapshot, folder: Path) -> None:
        """Continue the run of ``snapshot``, which is in ``folder``: its id, counters and lowest validation loss."""
        facts = snapshot.facts
        if self.validation:
            self.validation.lowest = facts.get("validation_lowest", self.validation.lowest)
        self.run, self.run_before = facts["run"], facts.get("run_before")
        self.revision_at_start, self.epoch_at_start = facts["revision_at_start"], facts["epoch_at_start"]
        self.resumed_from, self.first_step = folder, snapshot.position.step
        revision = self.revision_at_start + self.first_step
        self.path = [*facts.get("path", ()), (facts.get("branch", self.run), revision)]

    def _lora(self) -> None:
        session = self.session
        path = unused_path(self.model.folders.loras / f"{self.config.output_name}_{self.revision}.safetensors")
        with session.inference_weights():
            adapters = respelled(collect_adapters(session.layers), self.model, self.settings.lora_spelling)
            write_lora(path, adapters, self._lora_metadata(path.stem))
        self._report_file("lora", path, verify_lora(path, self.model))

    @torch.no_grad()
    def _working(self) -> None:
        """Write trained components to working/, in float32 so that the next run loses nothing."""
        session, working = self.session, self.model.working
        session.synchronize_weights()
        with session.inference_weights():
            for name, module in session.trained_modules().items():
                save_component(working, name, module, torch.float32)
        if session.ema:
            session.ema.swap()
            try:
                ema_name = session.modules.family.denoiser.ema_name
                save_component(working, ema_name, session.modules.denoiser, torch.float32)
            finally:
                session.ema.swap()
        if self.settings.zero_terminal_snr:
            write_json(working / "scheduler" / "scheduler_config.json", session.sampling_scheduler_config())
        write_json(working / TRAINING_METADATA, self._training_metadata())
        self._update_info(has_ema=self.config.info.has_ema or session.ema is not None)

    def _working_and_checkpoint(self) -> None:
        self._working()  # first: the checkpoint is made from working/
        self._checkpoint()

    def _checkpoint(self) -> None:
        path = checkpoint_path(self.model, self.config)
        dtype = torch.float16 if self.settings.half_model else None
        metadata = checkpoint_metadata(self.model, self.config, path.stem, ())
        write_checkpoint(self.model, path, dtype=dtype, ema=ema_choice(self.config), metadata=metadata)
        self._report_file("checkpoint", path, verify_checkpoint(path, self.model))

    def _training_metadata(self) -> dict[str, str]:
        session, position = self.session, self.session.position
        return training_metadata(
            self.config, session.plan, session.modules.family, session.precision, position.step, position.epoch,
            self.started,
        )  # fmt: skip

    def _lora_metadata(self, title: str) -> dict[str, str]:
        session, settings = self.session, self.settings
        spec = modelspec(
            title,
            session.modules.family,
            session.modules.denoiser.config,
            settings.resolution,
            settings.clip_skip,
            lora=True,
            prediction_type=session.process.prediction_type,
        )
        image = thumbnail(self.model.samples) if settings.save_thumbnail else {}
        return {**self._training_metadata(), **spec, **image}

    def _update_info(self, **changed: bool) -> None:
        """Update revision, epoch and run in db_config.json; settings that were edited there meanwhile stay."""
        epoch = self.epoch_at_start + self.session.position.epoch
        info = dataclasses.replace(self.config.info, revision=self.revision, epoch=epoch, run=self.run, **changed)
        self.config = dataclasses.replace(self.config, info=info)
        try:
            on_disk = self.model.load()
        except UserError:
            on_disk = self.config
        self.model.save(dataclasses.replace(on_disk, info=info))

    def _report_file(self, what: str, path: Path, verification: Verification) -> None:
        self.files.append(path)
        self.session.events.send(FileSaved(what, str(path), summary=verification.summary()))
        if not verification.ok:
            raise UserError(f"{path} was written but failed verification: {verification.summary()}.")


def _problems_of(error: Exception) -> list[str]:
    """For users; memory that a failed attempt holds is freed."""
    if isinstance(error, UserError):
        return error.problems
    if is_out_of_memory(error):
        release_after(error)
        return [f"{OUT_OF_MEMORY.capitalize()}."]
    return [f"{type(error).__name__}: {error}."]


def ema_choice(config: ModelConfig) -> Ema:
    """How a checkpoint includes EMA weights: "replace" the trained ones, "include" both, or "none"."""
    settings = config.settings
    if not config.info.has_ema or not settings.use_ema:
        return "none"
    if settings.infer_ema:
        return "replace"
    return "include" if settings.save_ema else "none"


def checkpoint_path(model: ModelFolder, config: ModelConfig, suffix: str = "") -> Path:
    folder = model.folders.checkpoints / (config.output_name if config.settings.use_subdir else "")
    return unused_path(folder / f"{config.output_name}_{config.info.revision}{suffix}.safetensors")


def unused_path(path: Path) -> Path:
    """``path``, or with -2, -3, ... appended if the file exists: no file is overwritten.

    A ``.yaml`` of the same name counts too: it would be taken for the configuration of a new checkpoint.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Add a file name.")
    candidate, n = path, 2
    while candidate.exists() or (candidate.suffix == ".safetensors" and candidate.with_suffix(ENDING).exists()):
        candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
        n += 1
    return candidate
