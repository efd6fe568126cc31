"""What a run leaves: LoRA files, the model's working folder, checkpoints, snapshots. Each is checked after writing."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import torch

from dreambooth.checkpoints.lora import write_lora
from dreambooth.checkpoints.modules import save_component
from dreambooth.checkpoints.single_file import Ema, write_checkpoint
from dreambooth.checkpoints.verify import Verification, verify_checkpoint, verify_lora
from dreambooth.errors import UserError
from dreambooth.files import write_json
from dreambooth.jobs.events import FileSaved, ValidationMeasured
from dreambooth.settings import ModelConfig, ModelFolder
from dreambooth.training.adapters import collect_adapters
from dreambooth.training.metadata import (
    TRAINING_METADATA,
    checkpoint_metadata,
    modelspec,
    thumbnail,
    training_metadata,
)
from dreambooth.training.session import Session
from dreambooth.training.snapshot import Snapshot
from dreambooth.training.snapshot import write as write_snapshot
from dreambooth.training.snapshot_state import take_snapshot
from dreambooth.training.validation import Validation

log = logging.getLogger("dreambooth.training")


class Results:
    """Saves for a session, as its settings say. ``config`` is kept up to date with what lies on disk."""

    def __init__(self, session: Session) -> None:
        self.session, self.model = session, session.model
        self.config, self.settings = session.config, session.settings
        self.revision_at_start = session.config.info.revision
        self.epoch_at_start = session.config.info.epoch
        self.run, self.run_before = uuid.uuid4().hex, session.config.info.run
        self.started = time.time()
        self.files: list[Path] = []
        self.validation = Validation(session) if self.settings.validation_every else None

    @property
    def revision(self) -> int:
        """Optimizer steps in the model's whole life."""
        return self.revision_at_start + self.session.position.step

    def save(self, when: str) -> None:
        """Save what the settings ask for ``when`` ("during", "after", "cancel"; "now" when a person asks in between,
        "auto" for a snapshot alone).

        One thing that cannot be saved does not keep the others from it. During the run that is said and the run goes
        on: what it has learnt is still in memory. At its end the lot is kept as a snapshot, if at all possible.
        """
        if self.session.position.step == 0:
            return
        problems: list[str] = []
        for part in self._parts(when):
            try:
                part()
            except Exception as error:  # whatever it is, it must not cost what was learnt
                log.error("saving failed", exc_info=error)
                problems += error.problems if isinstance(error, UserError) else [f"{type(error).__name__}: {error}."]
        if not problems:
            return
        if when in ("during", "now", "auto"):
            self.session.events.message(f"Saving failed, training goes on: {' '.join(problems)}", level="error")
            return
        if not getattr(self.settings, f"save_state_{when}"):
            self._rescue()
        raise UserError.from_problems(problems)

    def validate(self) -> None:
        """Measure where the weights stand, once for each step, and say so."""
        if not self.validation:
            return
        measured, is_new = self.validation.measure()
        if is_new:
            self.session.events.send(
                ValidationMeasured(
                    step=measured.step,
                    loss=round(measured.loss, 6),
                    class_loss=None if measured.class_loss is None else round(measured.class_loss, 6),
                    losses={n + 1: round(loss, 6) for n, loss in measured.losses.items()},
                    class_losses={n + 1: round(loss, 6) for n, loss in measured.class_losses.items()},
                    best=measured.step > 0 and measured.loss == self.validation.lowest,
                )
            )

    def _parts(self, when: str) -> list[Callable[[], None]]:
        """What is to be saved. At the end results come first: a snapshot that does not fit must not cost them.

        In between the snapshot does: killed after it, a run goes on from there and writes the rest again. Killed with
        working/ changed and no snapshot yet, it could not.

        "now" is as "during", but for a LoRA, which is then wanted in any case.
        """

        def asked(what: str) -> bool:
            return getattr(self.settings, f"save_{what}_{'during' if when == 'now' else when}")

        if when == "auto":
            return [self._snapshot]
        parts: list[Callable[[], None]] = []
        if not self.settings.use_lora:
            parts.append(self._working_and_checkpoint if asked("ckpt") else self._working)
        elif asked("lora") or when == "now":
            parts.append(self._lora)
        snapshot = [self._snapshot] if asked("state") else []
        if when in ("during", "now"):
            return [*snapshot, *parts, self._count]
        return [*parts, *snapshot, self._count]

    def _rescue(self) -> None:
        with contextlib.suppress(Exception):
            self._snapshot()
            said = "What was learnt is kept in a snapshot: mend the cause, then resume to save it."
            self.session.events.message(said, level="warning")

    def _snapshot(self) -> None:
        self.validate()
        validation = self.validation
        measured = {}
        if validation and validation.last:
            measured = {"validation_loss": validation.last.loss, "validation_lowest": validation.lowest}
        snapshot = take_snapshot(
            self.session,
            run=self.run,
            run_before=self.run_before,
            revision_at_start=self.revision_at_start,
            epoch_at_start=self.epoch_at_start,
            **measured,
        )
        folder = write_snapshot(self.model, self.revision, snapshot, self.settings.snapshots_to_keep)
        self._count()
        self.session.events.send(FileSaved("snapshot", str(folder), summary=f"step {self.revision}"))

    def resumes(self, snapshot: Snapshot) -> None:
        """This run is the one that ``snapshot`` was made of."""
        facts = snapshot.facts
        if self.validation:
            self.validation.lowest = facts.get("validation_lowest", self.validation.lowest)
        self.run, self.run_before = facts["run"], facts.get("run_before")
        self.revision_at_start, self.epoch_at_start = facts["revision_at_start"], facts["epoch_at_start"]

    def _lora(self) -> None:
        session = self.session
        path = unused_path(self.model.folders.loras / f"{self.config.output_name}_{self.revision}.safetensors")
        with session.inference_weights():
            write_lora(path, collect_adapters(session.layers), self._lora_metadata(path.stem))
        self._announce("lora", path, verify_lora(path, self.model))

    @torch.no_grad()
    def _working(self) -> None:
        """Write what was trained back to working/, in float32 so that the next run loses nothing."""
        session, working = self.session, self.model.working
        with session.inference_weights():
            for name, module in session.trained_modules().items():
                save_component(working, name, module, torch.float32)
        if session.ema:
            session.ema.swap()
            try:
                save_component(working, "ema_unet", session.modules.unet, torch.float32)
            finally:
                session.ema.swap()
        if self.settings.zero_terminal_snr:
            write_json(working / "scheduler" / "scheduler_config.json", session.sampling_scheduler_config())
        write_json(working / TRAINING_METADATA, self._training_metadata())
        self._count(has_ema=self.config.info.has_ema or session.ema is not None)

    def _working_and_checkpoint(self) -> None:
        self._working()  # first, and if it fails there is none: a checkpoint is made of what lies in working/
        self._checkpoint()

    def _checkpoint(self) -> None:
        path = checkpoint_path(self.model, self.config)
        dtype = torch.float16 if self.settings.half_model else None
        metadata = checkpoint_metadata(self.model, self.config, path.stem, ())
        write_checkpoint(self.model, path, dtype=dtype, ema=ema_choice(self.config), metadata=metadata)
        self._announce("checkpoint", path, verify_checkpoint(path, self.model))

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
            session.modules.unet.config,
            settings.resolution,
            settings.clip_skip,
            lora=True,
            prediction_type=session.schedule.prediction_type,
        )
        picture = thumbnail(self.model.samples) if settings.save_thumbnail else {}
        return {**self._training_metadata(), **spec, **picture}

    def _count(self, **facts: bool) -> None:
        """Note in db_config.json how far the model has come; what the person edited there meanwhile stays."""
        epoch = self.epoch_at_start + self.session.position.epoch
        now = dataclasses.replace(self.config.info, revision=self.revision, epoch=epoch, run=self.run, **facts)
        self.config = dataclasses.replace(self.config, info=now)
        try:
            on_disk = self.model.load()
        except UserError:
            on_disk = self.config
        self.model.save(dataclasses.replace(on_disk, info=now))

    def _announce(self, what: str, path: Path, verification: Verification) -> None:
        self.files.append(path)
        self.session.events.send(FileSaved(what, str(path), summary=verification.summary()))
        if not verification.ok:
            raise UserError(f"{path} was written but did not pass its check: {verification.summary()}.")


def ema_choice(config: ModelConfig) -> Ema:
    """Which weights a checkpoint takes: "instead" of the trained ones, "beside" them, or "none"."""
    settings = config.settings
    if not config.info.has_ema or not settings.use_ema:
        return "none"
    if settings.infer_ema:
        return "instead"
    return "beside" if settings.save_ema else "none"


def checkpoint_path(model: ModelFolder, config: ModelConfig, suffix: str = "") -> Path:
    folder = model.folders.checkpoints / (config.output_name if config.settings.use_subdir else "")
    return unused_path(folder / f"{config.output_name}_{config.info.revision}{suffix}.safetensors")


def unused_path(path: Path) -> Path:
    """``path``, or with -2, -3, ... when a file is there: nothing that someone may miss is overwritten."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file's name too.")
    candidate, n = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
        n += 1
    return candidate
