"""The training loop: one step after the other. Requests of users are handled between steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dreambooth.dataset.plan import Batch
from dreambooth.errors import UserError
from dreambooth.jobs.events import Step
from dreambooth.training.optimizers import set_learning_rates
from dreambooth.training.precision import memory_peak, reset_memory_peak
from dreambooth.training.scheduled_tasks import Autosave, due_tasks, outputs_to_save
from dreambooth.training.schedules import epochs_trained, run_length, steps_of_epochs, text_encoder_steps
from dreambooth.training.session import Session
from dreambooth.training.step import StepRunner
from dreambooth.training.step_metrics import StepMetrics

NAN_ADVICE = (
    "Lower the learning rate, use mixed precision bf16 or no instead of fp16, and check for corrupt images. "
    "Nothing was saved from this step; files saved earlier are intact."
)

# fp16's loss scale starts at 65536 and is halved after each overflow. After so many in a row, the loss itself is NaN.
MAX_OVERFLOWS = 24


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop: previews, saving (``Results.save``, with its occasion) and validation."""

    preview: Callable[[], None]
    save: Callable[[str], None]
    validate: Callable[[], None] = lambda: None


NO_HOOKS = Hooks(lambda: None, lambda occasion: None)


@dataclass
class _StepRecord:
    """A step and its metrics, which are read a step later on a GPU: see :class:`StepMetrics`."""

    step: int
    epoch: int
    lr: float
    metrics: StepMetrics
    seconds: float


class Loop:
    """Runs a :class:`Session` from its position to the end. ``run`` returns "done" or "cancelled"."""

    def __init__(self, session: Session, hooks: Hooks) -> None:
        self.session, self.hooks = session, hooks
        self.settings, self.position = session.settings, session.position
        self.process_group, self.step_runner = session.process_group, StepRunner(session)
        lengths = session.plan.epoch_lengths(self.settings.num_train_epochs, self.settings.train_batch_size)
        world_size, position = self.process_group.world_size, self.position
        self.total_steps, _ = run_length(self.settings, lengths, world_size)
        steps = steps_of_epochs(self.settings, lengths, world_size)
        at = (position.step, position.epoch, position.steps_in_epoch)
        self.epochs = epochs_trained(self.total_steps, steps, *at)  # that will be trained, including earlier ones
        self.step_seconds: list[float] = []
        self._pending: _StepRecord | None = None
        self._autosave = Autosave(self.settings.autosave_minutes)
        self._memory: int | None = None  # peak bytes on the GPU
        self._overflows = 0  # consecutive steps whose gradients overflowed
        self._clock = time.perf_counter()

    def run(self) -> str:
        if self.position.step == 0:
            self.hooks.validate()  # the baseline, before training
        self.session.events.phase("training")
        reset_memory_peak(self.session.device)  # not that of encoding, or of the host before the run
        self._clock = time.perf_counter()
        while self.position.step < self.total_steps:
            groups = self.accumulation_groups(self.position.epoch)
            for group in groups[self.position.steps_in_epoch :]:
                if self.process_group.any(not self._handle_controls()):
                    return self._end("cancelled")
                self.step(group)
                if self.position.step >= self.total_steps:
                    break
                if self.position.steps_in_epoch < len(groups):
                    self._run_periodic_tasks(epoch_ended=False)
            if self.position.steps_in_epoch >= len(groups):  # more, if resumed with fewer steps per epoch
                self._end_epoch()
        return self._end("done")

    # -- one step ---------------------------------------------------------------------------------------------

    def step(self, group: Sequence[Batch]) -> None:
        """One optimizer step over the batches of an accumulation group."""
        session, settings = self.session, self.settings
        if self._is_past_text_encoder():
            session.freeze_text_encoder()
        set_learning_rates(session.optimizer, settings, self.position.step, self.total_steps)
        metrics = self.step_runner.run(group)
        self.position.step += 1
        self.position.steps_in_epoch += 1
        if session.ema:
            if session.ema.is_due():
                session.synchronize_weights()
            session.ema.update()
        lr = session.optimizer.param_groups[0]["lr"]
        self._report(_StepRecord(self.position.step, self.position.epoch, lr, metrics, self._measure_time()))

    def accumulation_groups(self, epoch: int) -> list[Sequence[Batch]]:
        """The epoch's batches in gradient-accumulation groups, one per optimizer step. The last may be smaller."""
        batches = self.session.plan.epoch(self.settings.seed, epoch, self.settings.train_batch_size)
        n = self.settings.gradient_accumulation_steps * self.process_group.world_size
        return [batches[i : i + n] for i in range(0, len(batches), n)]

    def _is_past_text_encoder(self) -> bool:
        """Whether the text encoder's part of the run is over and only the denoiser is trained from here on."""
        last = text_encoder_steps(self.settings, self.total_steps)
        return self.session.trains_text_encoder and self.position.step >= last

    # -- requests and periodic tasks --------------------------------------------------------------------------

    def _handle_controls(self) -> bool:
        """Handle the requests since the last step. False: stop."""
        controls, events = self.session.controls, self.session.events
        was_paused = False
        while not controls.cancelled:
            if controls.consume_sample_request():
                self.hooks.preview()
            elif controls.consume_save_request():
                self._flush()
                self._save("now")
            elif controls.paused:
                if not was_paused and controls.pause_remaining is None:
                    events.message(f"Paused after step {self.position.step}.")
                was_paused = True
                controls.wait_while_paused()
            else:
                break
            self._clock = time.perf_counter()  # not part of the next step's time
        if was_paused and not controls.cancelled:
            events.message("Resumed.")
        return not controls.cancelled

    def _end_epoch(self) -> None:
        self.position.epoch += 1
        self.position.steps_in_epoch = 0
        if self.position.step >= self.total_steps:
            return  # _end saves and previews
        self._run_periodic_tasks(epoch_ended=True)

    def _run_periodic_tasks(self, epoch_ended: bool) -> None:
        """Run the tasks that are due after a step. A snapshot is last, so that a resumed run repeats none of them."""
        if not self.process_group.is_main_process:
            return  # the other ranks wait before the next step
        tasks = due_tasks(self.settings, self.position, epoch_ended)
        if not tasks and not self._autosave.is_due():
            return
        self._flush()
        if "preview" in tasks:
            self.hooks.preview()
        if "validate" in tasks:
            self.hooks.validate()
        if "save" in tasks:
            self._save("during")
        if self._autosave.is_due():
            self._save("auto")
        if "pause" in tasks:
            self.session.events.message(f"Pausing for {self.settings.epoch_pause_time} s.")
            self.session.controls.pause(self.settings.epoch_pause_time)
        self._clock = time.perf_counter()

    def _save(self, occasion: str) -> None:
        self.hooks.save(occasion)
        if "snapshot" in outputs_to_save(self.settings, occasion):
            self._autosave.restart()

    def _end(self, state: str) -> str:
        self._flush()
        controls = self.session.controls
        if controls.stopped:
            return "cancelled"
        if state == "done":
            self.hooks.validate()
            self.hooks.save("after")
        elif controls.shutting_down:
            self.session.events.message("The process was told to end: saving a snapshot.")
            self.hooks.save("shutdown")
        else:
            self.hooks.save("cancel")
        if state == "done":
            self.hooks.preview()
        return state

    # -- metrics ----------------------------------------------------------------------------------------------

    def _measure_time(self) -> float:
        """Seconds since the last step, or since what came after it."""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self.step_seconds.append(seconds)
        return seconds

    def _report(self, record: _StepRecord) -> None:
        """Send a step's metrics; on a GPU those of the step before, while this one is still being computed."""
        previous, self._pending = self._pending, record
        if self.session.device.type == "cpu":
            self._flush()
        elif previous:
            self._send(previous)

    def _flush(self) -> None:
        if self._pending:
            record, self._pending = self._pending, None
            self._send(record)

    def _send(self, record: _StepRecord) -> None:
        norm, loss, prior = record.metrics.read()
        self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
        max_overflows = MAX_OVERFLOWS if self.session.accelerator.scaler else 0
        if not (math.isfinite(loss) and math.isfinite(prior or 0.0)) or self._overflows > max_overflows:
            # The optimizer skipped this step: the weights in memory are those of the step before.
            raise UserError(f"The loss became NaN in step {record.step}; training has stopped. {NAN_ADVICE}")
        if peak := memory_peak(self.session.device):
            self._memory = self.session.memory_peaks["training"] = max(self._memory or 0, peak)
        self.session.events.send(
            Step(
                step=record.step,
                total=self.total_steps,
                epoch=record.epoch,
                epochs=self.epochs,
                loss=round(loss, 6),
                prior_loss=None if prior is None else round(prior, 6),
                lr=record.lr,
                seconds=round(record.seconds, 4),
                memory=self._memory,
            )
        )
