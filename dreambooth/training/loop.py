"""The loop: batch, noise, prediction, loss, step. What people want of it arrives through Controls, between steps."""

from __future__ import annotations

import functools
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dreambooth.dataset.plan import Batch
from dreambooth.errors import UserError
from dreambooth.jobs.events import Step
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import Losses, diffusion_losses, prior_weight_in
from dreambooth.training.optimizers import set_learning_rates
from dreambooth.training.precision import memory_used
from dreambooth.training.scheduled_tasks import Autosave, due
from dreambooth.training.schedules import run_length, text_encoder_steps
from dreambooth.training.session import Session
from dreambooth.training.step_metrics import StepMetrics

NAN_ADVICE = (
    "Try a lower learning rate, mixed precision bf16 or no instead of fp16, and look for broken pictures. "
    "Nothing was saved from this step; the files saved before are whole."
)

# fp16 finds its scale by halving it from 65536 after each overflow. Where so many don't help, it is no overflow.
MAX_OVERFLOWS = 24


@dataclass(frozen=True)
class Hooks:
    """What the loop calls when it is time: pictures, and weights (when: see ``Results.save``)."""

    preview: Callable[[], None]
    save: Callable[[str], None]
    validate: Callable[[], None] = lambda: None


NO_HOOKS = Hooks(lambda: None, lambda when: None)


@dataclass
class _Measured:
    """A step and its figures, which are read a step later on a GPU: see :class:`StepMetrics`."""

    step: int
    epoch: int
    lr: float
    figures: StepMetrics
    seconds: float


class Loop:
    """Runs a :class:`Session` from its position to the end. ``run`` returns "done" or "cancelled"."""

    def __init__(self, session: Session, hooks: Hooks) -> None:
        self.session, self.hooks = session, hooks
        self.settings, self.position = session.settings, session.position
        self.process_group = session.process_group
        lengths = session.plan.epoch_lengths(self.settings.num_train_epochs, self.settings.train_batch_size)
        self.total_steps, _ = run_length(self.settings, lengths, self.process_group.world_size)
        self.step_seconds: list[float] = []
        self._pending: _Measured | None = None
        self._autosave = Autosave(self.settings.autosave_minutes)
        self._skipped = 0  # steps in a row that fp16 overflowed in
        self._clock = time.perf_counter()

    def run(self) -> str:
        if self.position.step == 0:
            self.hooks.validate()  # what the untouched model makes of it
        self.session.events.phase("training")
        self._clock = time.perf_counter()
        while self.position.step < self.total_steps:
            windows = self.windows(self.position.epoch)
            for window in windows[self.position.window :]:
                if self.process_group.any(not self._obey()):
                    return self._end("cancelled")
                self.step(window)
                if self.position.step >= self.total_steps:
                    break
                if self.position.window < len(windows):
                    self._beside(epoch_ended=False)
            if self.position.window >= len(windows):  # beyond it, when resumed with fewer steps per epoch
                self._end_epoch()
        return self._end("done")

    # -- one step ---------------------------------------------------------------------------------------------

    def step(self, window: Sequence[Batch]) -> None:
        """One optimizer step over the batches of ``window``; each picture counts the same, whatever its batch."""
        session, settings = self.session, self.settings
        if self._past_text_encoder():
            session.freeze_text_encoder()
        set_learning_rates(session.optimizer, settings, self.position.step, self.total_steps)
        pictures = sum(len(batch.instances) for batch in window)
        losses = []
        for number, batch in enumerate(window):
            if number % self.process_group.world_size == self.process_group.rank:
                losses.append(self._backward(batch, number, len(batch.instances) / pictures))
        if self.process_group.world_size > 1:
            self._share(losses, with_prior=any(batch.classes for batch in window))
        norm = session.stepper.step()
        if session.ema:
            session.ema.update()
        self.position.step += 1
        self.position.window += 1
        lr, figures = session.optimizer.param_groups[0]["lr"], StepMetrics(_sum(losses), norm)
        self._report(_Measured(self.position.step, self.position.epoch, lr, figures, self._lap()))

    def _backward(self, batch: Batch, number: int, share: float) -> Losses:
        session, settings = self.session, self.settings
        generator = generator_for(settings.seed, "noise", self.position.step, number)
        session.dropout.at(self.position.step, number)
        with session.accelerator.autocast():
            losses = diffusion_losses(
                session.modules.unet,
                session.schedule,
                session.latents,
                session.prompts,
                session.masked,
                batch,
                generator,
                settings,
                prior_weight=prior_weight_in(settings, self.position.epoch),
                loss_masks=session.loss_masks,
            )
        session.accelerator.backward(losses.total * share if share != 1 else losses.total)
        prior = None if losses.prior is None else losses.prior.detach() * share
        return Losses(losses.total.detach() * share, losses.instance.detach() * share, prior)

    def _share(self, losses: list[Losses], with_prior: bool) -> None:
        """Gradients and losses of all processes, added up: each holds those of the whole step afterwards."""
        self.process_group.all_reduce_gradients(
            [p for group in self.session.optimizer.param_groups for p in group["params"]]
        )
        zero = torch.zeros((), device=self.session.device)
        parts = [[x.instance for x in losses], [x.prior for x in losses if x.prior is not None]]
        instance, prior = self.process_group.all_reduce(torch.stack([sum(part, zero).float() for part in parts]))
        losses[:] = [Losses(instance, instance, prior if with_prior else None)]

    def windows(self, epoch: int) -> list[Sequence[Batch]]:
        """The epoch's batches in groups of one optimizer step; the last group may be smaller."""
        batches = self.session.plan.epoch(self.settings.seed, epoch, self.settings.train_batch_size)
        n = self.settings.gradient_accumulation_steps * self.process_group.world_size
        return [batches[i : i + n] for i in range(0, len(batches), n)]

    def _past_text_encoder(self) -> bool:
        """Whether only the unet learns from here on; without it the text encoder learns to the end."""
        last = text_encoder_steps(self.settings, self.total_steps)
        return self.session.trains_text and self.position.step >= last

    # -- people -----------------------------------------------------------------------------------------------

    def _obey(self) -> bool:
        """Do what was asked for since the last step. False: stop."""
        controls, events = self.session.controls, self.session.events
        said = False
        while not controls.cancelled:
            if controls.consume_sample_request():
                self.hooks.preview()
            elif controls.consume_save_request():
                self._flush()
                self.hooks.save("now")
            elif controls.paused:
                if not said and controls.pause_remaining is None:
                    events.message(f"Paused after step {self.position.step}.")
                said = True
                controls.wait_while_paused()
            else:
                break
            self._clock = time.perf_counter()  # not the next step's time
        if said and not controls.cancelled:
            events.message("Going on.")
        return not controls.cancelled

    def _end_epoch(self) -> None:
        self.position.epoch += 1
        self.position.window = 0
        if self.position.step >= self.total_steps:
            return  # the end saves and draws anyway
        self._beside(epoch_ended=True)

    def _beside(self, epoch_ended: bool) -> None:
        """What is due after a step; a snapshot last, so that a run that goes on from it repeats none of it."""
        if not self.process_group.is_main_process:
            return  # the others wait before the next step
        wanted = due(self.settings, self.position, epoch_ended)
        autosave = self._autosave.due()
        if not wanted and not autosave:
            return
        self._flush()
        if "preview" in wanted:
            self.hooks.preview()
        if "validate" in wanted:
            self.hooks.validate()
        if "save" in wanted:
            self.hooks.save("during")
        if autosave:
            self.hooks.save("auto")
        if "rest" in wanted:
            self.session.events.message(f"Resting for {self.settings.epoch_pause_time} s after this epoch.")
            self.session.controls.pause(self.settings.epoch_pause_time)
        self._clock = time.perf_counter()

    def _end(self, state: str) -> str:
        self._flush()
        if self.session.controls.stopped:
            return "cancelled"
        if state == "done":
            self.hooks.validate()
        self.hooks.save("after" if state == "done" else "cancel")
        if state == "done":
            self.hooks.preview()
        return state

    # -- figures ----------------------------------------------------------------------------------------------

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        self.step_seconds.append(seconds)
        return seconds

    def _report(self, measured: _Measured) -> None:
        """On a GPU the figures of the step before are read while this one is still being computed."""
        previous, self._pending = self._pending, measured
        if self.session.device.type == "cpu":
            self._flush()
        elif previous:
            self._send(previous)

    def _flush(self) -> None:
        if self._pending:
            measured, self._pending = self._pending, None
            self._send(measured)

    def _send(self, measured: _Measured) -> None:
        norm, loss, prior = measured.figures.read()
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        overflows = MAX_OVERFLOWS if self.session.accelerator.scaler else 0
        if not (math.isfinite(loss) and math.isfinite(prior or 0.0)) or self._skipped > overflows:
            # The optimizer has skipped this step: the weights in memory are still the last good ones.
            raise UserError(
                f"The loss is not a number any more (step {measured.step}); the run has stopped. {NAN_ADVICE}"
            )
        self.session.events.send(
            Step(
                step=measured.step,
                total=self.total_steps,
                epoch=measured.epoch,
                epochs=self.settings.num_train_epochs,
                loss=round(loss, 6),
                prior_loss=None if prior is None else round(prior, 6),
                lr=measured.lr,
                seconds=round(measured.seconds, 4),
                memory=memory_used(self.session.device),
            )
        )


def _sum(losses: Sequence[Losses]) -> Losses:
    """Shares of one step, put together."""
    if len(losses) == 1:
        return losses[0]

    def total(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return functools.reduce(operator.add, parts)

    priors = [part.prior for part in losses if part.prior is not None]
    return Losses(
        total([part.total for part in losses]),
        total([part.instance for part in losses]),
        total(priors) if priors else None,
    )
