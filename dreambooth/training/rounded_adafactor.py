"""Adafactor on bfloat16 weights, for some rows of a weight at a time.

The library's update holds four float32 copies of a weight at once: for the largest convolutions half a gigabyte, more
than all activations at that point of the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from dreambooth.training.chunks import CHUNK
from dreambooth.training.rounded_optimizer import StochasticRounding
from dreambooth.training.stochastic_rounding import stochastic_round


class StochasticRoundingAdafactor(StochasticRounding):
    """Adafactor (arXiv:1804.04235, algorithms 4 and 5) on bfloat16 parameters, computed in float32.

    ``optimizer``: that of transformers, whose settings and state it shares. Weights of up to ``chunk`` elements get its
    update bit for bit. Larger ones are computed in chunks of rows, twice, since clipping needs the norm of the whole
    update. With a first moment (beta1) the library computes the update.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, seed: int) -> None:
        super().__init__(optimizer, seed)
        self.chunk = CHUNK

    def update_batch(self, number: int, params: Sequence[torch.nn.Parameter], generator: torch.Generator) -> None:
        group = self.param_groups[number]
        if group["beta1"] is not None:
            super().update_batch(number, params, generator)
            return
        for parameter in params:
            if parameter.grad is not None:
                self._update(group, parameter, parameter.grad, generator)

    def _update(
        self, group: dict[str, Any], parameter: torch.nn.Parameter, gradient: torch.Tensor, generator: torch.Generator
    ) -> None:
        weight, state, parts = parameter.data, self.state[parameter], _rows(parameter, self.chunk)
        if not state:
            state |= {"step": 0, **_zero_moments(weight), "RMS": 0}
        state["step"] += 1
        if group["scale_parameter"]:
            state["RMS"] = _rms((_exact(weight, part) for part in parts), weight.numel())
        optimizer: Any = self.optimizer
        lr = optimizer._get_lr(group, state)
        beta2 = 1.0 - math.pow(state["step"], group["decay_rate"])
        _update_moments(state, gradient, parts, beta2, group["eps"][0])
        update_of = _update_function(state, gradient)
        whole = [update_of(parts[0])] if len(parts) == 1 else []
        limit = _rms(whole or map(update_of, parts), weight.numel()) / group["clip_threshold"]
        limit.clamp_(min=1.0)
        for part in parts:
            update = whole.pop() if whole else update_of(part)
            update.div_(limit).mul_(lr)
            values = _exact(weight, part)
            if group["weight_decay"]:
                values.add_(values, alpha=-group["weight_decay"] * lr)
            values.sub_(update)
            del update
            stochastic_round(weight[part], values.view(weight[part].shape), generator)


def _rows(parameter: torch.Tensor, size: int) -> list[slice]:
    """Parts of at most ``size`` elements, or of one row; a vector is one part."""
    n = len(parameter) if parameter.ndim > 1 else 1
    step = max(1, size * n // parameter.numel())
    return [slice(start, start + step) for start in range(0, n, step)] if step < n else [slice(None)]


def _exact(tensor: torch.Tensor, part: slice) -> torch.Tensor:
    """A float32 copy of some rows, as a matrix of (out, in * height * width)."""
    rows = tensor[part].float()
    return rows.flatten(1) if rows.ndim > 2 else rows


def _zero_moments(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    def zeros(n: int) -> torch.Tensor:
        return torch.zeros(n, device=weight.device)

    if weight.ndim == 1:
        return {"exp_avg_sq": zeros(len(weight))}
    return {"exp_avg_sq_row": zeros(len(weight)), "exp_avg_sq_col": zeros(weight[0].numel())}


def _update_moments(
    state: dict[str, Any], gradient: torch.Tensor, parts: list[slice], beta2: float, eps: float
) -> None:
    """Averages of the squared gradients: of each element of a vector, of each row and column of a matrix."""

    def average(name: str, squares: torch.Tensor, part: slice = slice(None)) -> None:
        state[name][part].mul_(beta2).add_(squares, alpha=1.0 - beta2)

    columns = None
    for part in parts:
        squares = _exact(gradient, part).square_().add_(eps)
        if gradient.ndim == 1:
            average("exp_avg_sq", squares)
            return
        average("exp_avg_sq_row", squares.mean(dim=-1), part)
        if len(parts) == 1:
            average("exp_avg_sq_col", squares.mean(dim=-2))
            return
        sums = squares.sum(dim=-2)
        columns = sums if columns is None else columns.add_(sums)
    assert columns is not None
    average("exp_avg_sq_col", columns.div_(len(gradient)))


def _update_function(state: dict[str, Any], gradient: torch.Tensor) -> Callable[[slice], torch.Tensor]:
    """The update of some rows, before clipping and without the learning rate."""
    if gradient.ndim == 1:
        return lambda part: state["exp_avg_sq"].rsqrt().mul_(_exact(gradient, part))
    row, column = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
    row = (row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    column = column.unsqueeze(-2).rsqrt()
    return lambda part: torch.mul(row[part], column).mul_(_exact(gradient, part))


def _rms(parts: Iterable[torch.Tensor], n: int) -> torch.Tensor:
    """Root mean square of ``n`` elements."""
    norms = [part.norm(2) for part in parts]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return norm / n**0.5
