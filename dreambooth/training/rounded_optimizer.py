"""Optimizers of libraries on bfloat16 weights: computed in float32, stored with stochastic rounding.

For states that are small anyway, factored or in 8 bits: full training then takes little more than its weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dreambooth.training.noise import generator_on
from dreambooth.training.step_in_parts import StepInParts, update_with
from dreambooth.training.stochastic_rounding import stochastic_round

_BATCH = 1 << 20  # elements that are float32 at once, if not of one larger parameter: libraries loop over them anyway
_STEP = "rounding_step"  # key of a parameter group: steps so far, which determine the random numbers


class StochasticRounding(StepInParts):
    """``optimizer``, whose update of a parameter must depend on that parameter alone, with bfloat16 parameters.

    It sees float32 copies of the weights and gradients of a batch of parameters, as matrices of (out, in * height *
    width): an optimizer that factors its state factors these two axes, and not the 3 x 3 of a convolution.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, seed: int) -> None:
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer, self.seed = optimizer, seed
        self.batch = _BATCH
        self._generators: dict[int, torch.Generator] = {}  # of this step, by number of the group
        self._share_state()

    @torch.no_grad()
    def update(self, number: int, params: Sequence[torch.nn.Parameter], found_inf: torch.Tensor | None = None) -> None:
        is_finite = found_inf is None or bool(~found_inf)
        if not is_finite:  # a library can't skip a step on the device
            return
        if number not in self._generators:
            group = self.param_groups[number]
            group[_STEP] = group.get(_STEP, 0) + 1
            position = (self.seed, "rounding", group[_STEP], number)
            self._generators[number] = generator_on(params[0].device, *position)
        self.update_batch(number, params, self._generators[number])

    def update_batch(self, number: int, params: Sequence[torch.nn.Parameter], generator: torch.Generator) -> None:
        """Update ``params`` of group ``number`` and round them, in their order."""
        for batch in _batches(params, self.batch):
            with _as_float32(batch) as weights:
                update_with(self.optimizer, number, batch)
                exact = [p.data for p in batch]
            for target, values in zip(weights, exact, strict=True):
                stochastic_round(target, values.view(target.shape), generator)

    def end_step(self) -> None:
        self._generators.clear()

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state keeps its dtype, which torch would change to that of the parameters."""
        params = [p for group in self.param_groups for p in group["params"]]
        with _replaced(params, [torch.empty(0, device=p.device) for p in params]):
            self.optimizer.load_state_dict(state_dict)
        self._share_state()

    def _share_state(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state


@contextlib.contextmanager
def _as_float32(params: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    """In the block, weights and gradients are float32 copies. Yields the weights that they have otherwise."""
    gradients = [p.grad for p in params]
    try:
        with _replaced(params, [_matrix(p.data.float()) for p in params]) as weights:
            for parameter, gradient in zip(params, gradients, strict=True):
                parameter.grad = None if gradient is None else _matrix(gradient.float())
            yield weights
    finally:
        for parameter, gradient in zip(params, gradients, strict=True):
            parameter.grad = gradient


@contextlib.contextmanager
def _replaced(params: Sequence[torch.nn.Parameter], values: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """In the block, parameters hold ``values``, of any shape and dtype, and no gradients afterwards."""
    originals = [p.data for p in params]
    try:
        for parameter, value in zip(params, values, strict=True):
            parameter.grad = None
            parameter.data = value
        yield originals
    finally:
        for parameter, original in zip(params, originals, strict=True):
            parameter.grad = None
            parameter.data = original


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(1) if tensor.ndim > 2 else tensor


def _batches(params: Sequence[torch.nn.Parameter], size: int) -> Iterator[list[torch.nn.Parameter]]:
    """``params`` in order, in lists of at most ``size`` elements, or of one parameter that is larger."""
    batch, n = [], 0
    for parameter in params:
        if batch and n + parameter.numel() > size:
            yield batch
            batch, n = [], 0
        batch.append(parameter)
        n += parameter.numel()
    if batch:
        yield batch
