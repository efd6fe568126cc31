"""One optimizer step: backward passes of its micro-batches, the optimizer, and what happens when memory runs out."""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from dreambooth.dataset.plan import Batch
from dreambooth.errors import UserError, first_sentence
from dreambooth.memory.out_of_memory import is_out_of_memory
from dreambooth.memory.release import clear_frames, free_memory
from dreambooth.models.conditioning import Conditioning
from dreambooth.settings.components import is_fused_backward
from dreambooth.training.compiled_blocks import is_compiled, stop_compiling
from dreambooth.training.cuda_graphs import CaptureError, StepGraphs
from dreambooth.training.master_weights import AdapterCopies, low_precision
from dreambooth.training.noise import generator_for
from dreambooth.training.objective import (
    BatchInputs,
    Losses,
    diffusion_losses,
    draw_inputs,
    losses_in_parts,
    losses_of,
    prepare_conditioning,
    prior_weight_at,
)
from dreambooth.training.precision import compute_dtype, uses_autocast
from dreambooth.training.session import Session
from dreambooth.training.step_metrics import StepMetrics

log = logging.getLogger("dreambooth.training")


class StepRunner:
    """Takes the steps of a session.

    A step that runs out of memory before the optimizer begins is computed again with an empty cache, with the same
    random numbers. If memory does not suffice then either, its batches are computed in parts, of which only one is in
    memory at a time, and so are those of all later steps.

    A step that fails with compiled blocks, where code is compiled for each new shape, is computed again without them,
    and so is one whose CUDA graph can't be recorded.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.settings = session, session.settings
        self.process_group = session.process_group
        self.n_parts = 1  # of each batch
        self._uses_autocast = uses_autocast(self.settings, session.precision)

    @property
    def is_updating(self) -> bool:
        """Whether a part of the weights may have taken a step that the others have not."""
        return self.session.stepper.is_updating

    def run(self, group: Sequence[Batch]) -> StepMetrics:
        """One optimizer step over the batches of an accumulation group. All images weigh the same, in any batch."""
        losses = self._accumulate(group)
        if self.process_group.world_size > 1:
            self._all_reduce(losses, with_prior=any(batch.classes for batch in group))
        norm = self.session.stepper.step()
        if self.session.offload and self.session.offload.moves_trained_weights:
            self.session.offload.release()  # the last blocks of the backward pass, whose updates are new
        return StepMetrics(_sum(losses), norm)

    def _accumulate(self, group: Sequence[Batch]) -> list[Losses]:
        """The gradients of all micro-batches of this rank, and their losses."""
        largest = max(len(batch.instances) + len(batch.classes) for batch in group)
        if is_fused_backward(self.settings):
            largest = 1  # gradients of parts can't be added
        is_retry = False
        while True:
            try:
                return list(self._backward_passes(group))
            except Exception as error:
                goes_on = not self.is_updating and self._goes_on_without(error)
                if self.is_updating or not (goes_on or self._can_retry(error, is_retry, largest)):
                    raise
                clear_frames(error)  # they refer to the graph
            self.release()
            if goes_on:
                continue
            if is_retry:
                self.n_parts = min(2 * self.n_parts, largest)
                self._report_parts()
            is_retry = True

    def _can_retry(self, error: Exception, is_retry: bool, largest: int) -> bool:
        return is_out_of_memory(error) and not (is_retry and self.n_parts >= largest)

    def _goes_on_without(self, error: Exception) -> bool:
        """Whether the error may have to do with a way of computing that the run can do without; if so, it is ended."""
        if is_out_of_memory(error) or isinstance(error, UserError):
            return False
        if isinstance(error, CaptureError):
            self.session.graphs = None
            self._report_end("CUDA graphs", "them", error)
        elif is_compiled(self.session.modules.denoiser):  # without, the error comes again if this is not the reason
            stop_compiling(self.session.modules.denoiser)
            self._report_end("torch.compile", "it", getattr(error, "inner_exception", error))  # torch wraps a backend's
        else:
            return False
        return True

    def _report_end(self, title: str, pronoun: str, error: Exception) -> None:
        log.info(title, exc_info=error)
        self.session.events.message(
            f"{title} failed in step {self.session.position.step + 1}, so training goes on without {pronoun}: "
            f"{first_sentence(error)}.",
            level="warning",
        )

    def release(self) -> None:
        """Free what a failed attempt left: gradients, autocast's copies, cached memory."""
        self.session.stepper.discard()
        if self.session.graphs:
            self.session.graphs.release()
        if self.session.offload:
            self.session.offload.release()
        torch.clear_autocast_cache()
        free_memory()

    def _report_parts(self) -> None:
        self.session.events.message(
            f"Out of memory in step {self.session.position.step + 1}: from now on each batch is computed in "
            f"{self.n_parts} parts, which is slower. The weights are the same up to rounding.",
            level="warning",
        )

    def _backward_passes(self, group: Sequence[Batch]) -> Iterator[Losses]:
        images = sum(len(batch.instances) for batch in group)
        for number, batch in enumerate(group):
            if number % self.process_group.world_size == self.process_group.rank:
                yield self._backward(batch, number, len(batch.instances) / images)

    def _backward(self, batch: Batch, number: int, fraction: float) -> Losses:
        """Backward pass of micro-batch ``number``, whose loss is ``fraction`` of the step's loss."""
        session = self.session
        session.dropout.set_position(session.position.step, number)
        if session.graphs and self.n_parts == 1 and not session.prompts.trainable:
            return self._through_graph(session.graphs, batch, number, fraction)
        return self._propagate(self._losses(batch, number), fraction)

    def _through_graph(self, graphs: StepGraphs, batch: Batch, number: int, fraction: float) -> Losses:
        session, settings = self.session, self.settings
        n, prior_weight = len(batch.instances), prior_weight_at(settings, session.position.epoch)
        generator = generator_for(settings.seed, "noise", session.position.step, number)
        arguments = session.process, session.latents, session.inpainting, batch, generator, settings
        with self._autocast():
            inputs = draw_inputs(*arguments, prior_weight, session.loss_masks)
            conditioning = prepare_conditioning(session.denoiser, session.prompts, batch)

        def losses(inputs: BatchInputs, conditioning: Conditioning) -> Iterator[Losses]:
            arguments = session.denoiser, session.process, inputs, conditioning, n, settings, prior_weight
            with self._autocast():
                losses = losses_of(*arguments)
            yield losses

        def compute(inputs: BatchInputs, conditioning: Conditioning) -> Losses:
            return self._propagate(losses(inputs, conditioning), fraction)

        return graphs.backward(inputs, conditioning, (n, prior_weight, fraction), compute)

    def _propagate(self, losses_of_parts: Iterable[Losses], fraction: float) -> Losses:
        """Backward passes of losses, each computed when the one before is done."""
        session, parts = self.session, []
        with self._low_precision() as copies:
            for losses in losses_of_parts:
                session.accelerator.backward(losses.total * fraction if fraction != 1 else losses.total)
                copies.collect_gradients()
                prior = None if losses.prior is None else losses.prior.detach() * fraction
                parts.append(Losses(losses.total.detach() * fraction, losses.instance.detach() * fraction, prior))
        return _sum(parts)

    def _low_precision(self) -> contextlib.AbstractContextManager[AdapterCopies]:
        """Adapters compute with copies of their parameters in the block, where autocast does not cast these."""
        session = self.session
        if session.precision == "no" or self._uses_autocast:
            return low_precision((), torch.float32)
        return low_precision(session.layers.values(), compute_dtype(session.precision), session.adapter_groups)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return self.session.accelerator.autocast() if self._uses_autocast else contextlib.nullcontext()

    def _losses(self, batch: Batch, number: int) -> Iterator[Losses]:
        """The loss of a micro-batch, in one or several parts."""
        session, settings = self.session, self.settings
        generator = generator_for(settings.seed, "noise", session.position.step, number)
        arguments = (
            session.denoiser, session.process, session.latents, session.prompts, session.inpainting, batch, generator,
            settings,
        )  # fmt: skip
        prior_weight = prior_weight_at(settings, session.position.epoch)
        masks = session.loss_masks
        if self.n_parts == 1:
            with self._autocast(), session.offloaded_activations():
                losses = diffusion_losses(*arguments, prior_weight=prior_weight, loss_masks=masks)
            yield losses
            return
        n_parts = min(self.n_parts, len(batch.instances) + len(batch.classes))
        parts = losses_in_parts(*arguments, prior_weight=prior_weight, loss_masks=masks, n_parts=n_parts)
        for _ in range(n_parts):
            with self._autocast(), session.offloaded_activations():
                losses = next(parts)
            yield losses

    def _all_reduce(self, losses: list[Losses], with_prior: bool) -> None:
        """Sum gradients and losses over all ranks, so that each rank has those of the whole step."""
        self.process_group.all_reduce_gradients(
            [p for group in self.session.optimizer.param_groups for p in group["params"]]
        )
        zero = torch.zeros((), device=self.session.device)
        parts = [[x.instance for x in losses], [x.prior for x in losses if x.prior is not None]]
        instance, prior = self.process_group.all_reduce(torch.stack([sum(part, zero).float() for part in parts]))
        losses[:] = [Losses(instance, instance, prior if with_prior else None)]


def _sum(losses: Sequence[Losses]) -> Losses:
    """The losses of micro-batches or of their parts, summed."""
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
