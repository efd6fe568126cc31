"""The optimizer step fused into the backward pass: a gradient is used as soon as it is there, and dropped at once.

Instead of all gradients only those of one batch of parameters are in memory. The updates are those of an ordinary step,
bit for bit, where an optimizer's update of a parameter depends on that parameter's gradient alone.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from dreambooth.memory.forecast import GRADIENT_BATCH
from dreambooth.settings import Settings
from dreambooth.training.gradient_clipping import clip_each, max_norm_of
from dreambooth.training.step_in_parts import StepInParts, update_with


class FusedBackwardStepper:
    """Updates parameters in the backward pass, in batches that hold at least ``batch`` elements of gradients.

    Batches, since an optimizer takes as many launches for one small parameter as for hundreds of them. A batch whose
    gradients are not finite is not updated.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
        self.optimizer, self.batch = optimizer, GRADIENT_BATCH
        self.is_updating = False  # whether a part of the weights has taken this step and a part has not
        self._max_norms = [max_norm_of(group, settings) for group in optimizer.param_groups]
        self._number, self._ready, self._n = 0, list[torch.nn.Parameter](), 0  # the batch: group, parameters, elements
        self._norms: list[torch.Tensor] = []  # of the batches of this step
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(_Hook(self, number))

    def step(self) -> torch.Tensor:
        """End a step, after its backward pass. Returns the gradient norm before clipping, a scalar on the device."""
        self.flush()
        if isinstance(self.optimizer, StepInParts):
            self.optimizer.end_step()
        norm = torch.linalg.vector_norm(torch.stack(self._norms))
        self._norms = []
        self.is_updating = False
        return norm

    def discard(self) -> None:
        """Drop the gradients of a failed backward pass."""
        self._ready, self._n = [], 0
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def collect(self, number: int, parameter: torch.nn.Parameter) -> None:
        """The gradient of a parameter of group ``number`` is complete."""
        if number != self._number:
            self.flush()
        self._number = number
        self._ready.append(parameter)
        self._n += parameter.numel()
        if self._n >= self.batch:
            self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Update the parameters whose gradients are there."""
        params, self._ready, self._n = self._ready, [], 0
        if not params:
            return
        self.is_updating = True
        gradients = [p.grad for p in params if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        self._norms.append(torch.linalg.vector_norm(norms))
        found_inf = ~torch.isfinite(self._norms[-1])
        if max_norm := self._max_norms[self._number]:
            clip_each(gradients, norms, max_norm)
        if isinstance(self.optimizer, StepInParts):
            self.optimizer.update(self._number, params, found_inf)
        elif bool(~found_inf):
            update_with(self.optimizer, self._number, params)
        for parameter in params:
            parameter.grad = None


class _Hook:
    """Refers to its stepper weakly: it is kept by the parameters, which must not keep the optimizer."""

    def __init__(self, stepper: FusedBackwardStepper, number: int) -> None:
        self._stepper, self._number = weakref.ref(stepper), number

    def __call__(self, parameter: Any) -> None:
        if stepper := self._stepper():
            stepper.collect(self._number, parameter)
