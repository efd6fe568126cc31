"""Stochastic rounding, and AdamW in pure bfloat16: weights, gradients and moments in 2 bytes each.

An update of 1e-6 of a weight is far below bfloat16's 8 bits, and rounding to nearest would lose all of them. Rounded up
with a probability equal to the fraction above the lower neighbor, the weight moves by the update on average
("Revisiting BFloat16 Training", arXiv:2010.06192). The random numbers are a function of seed and step, so that a
resumed run is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from dreambooth.training.chunks import CHUNK, Slice, flat, in_chunks, views
from dreambooth.training.fused_adamw import fused_adamw, has_fused_adamw
from dreambooth.training.noise import generator_on
from dreambooth.training.step_in_parts import StepInParts


class StochasticRoundingAdamW(StepInParts):
    """AdamW (arXiv:1711.05101) on bfloat16 parameters, computed in float32 for a chunk of the elements at a time.

    Temporaries take up to 30 bytes per element of a chunk, and the number of launches depends on the chunks rather than
    on the parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        seed: int,
        lr: float = 1e-3,
        betas=(0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed, self.chunk = seed, CHUNK
        self._generators: dict[int, tuple[int, torch.Generator]] = {}  # of each group: the step, and its generator

    @torch.no_grad()
    def update(self, number: int, params: Sequence[torch.nn.Parameter], found_inf: torch.Tensor | None = None) -> None:
        group, count = self.param_groups[number], int(self.begin(number, params))
        if self._generators.get(number, (0, None))[0] != count:
            generator = generator_on(params[0].device, self.seed, "rounding", count, number)
            self._generators[number] = (count, generator)
        for chunk in in_chunks(params, self.chunk):
            self._update(chunk, params, group, count, self._generators[number][1], found_inf)

    def _update(
        self,
        chunk: Sequence[Slice],
        params: Sequence[torch.nn.Parameter],
        group: dict[str, Any],
        count: int,
        generator: torch.Generator,
        found_inf: torch.Tensor | None,
    ) -> None:
        """Step ``count`` of a chunk of the parameters. The order of the values is that of the random numbers."""
        states = [self.state[p] for p in params]
        tensors = (params, [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states])
        targets = [part.of(each) for part in chunk for each in tensors]
        exact = flat(targets).float()
        values = views(exact, targets)
        is_fused = has_fused_adamw(exact.device.type)
        adamw = _fused_adamw if is_fused else _adamw
        adamw(values[0::3], values[1::3], values[2::3], _float_gradients(chunk, params), group, count, found_inf)
        stochastic_round(exact, exact, generator)  # leaves what bfloat16 can represent, as after a skipped step
        rounded = exact.to(targets[0].dtype)
        if found_inf is not None and not is_fused:
            rounded = torch.where(found_inf, flat(targets), rounded)
        torch._foreach_copy_(targets, views(rounded, targets))


def _adamw(
    weights: list[torch.Tensor],
    means: list[torch.Tensor],
    squares: list[torch.Tensor],
    gradients: list[torch.Tensor],
    group: dict[str, Any],
    count: int,
    found_inf: torch.Tensor | None,
) -> None:
    """Step ``count`` in place, all in float32, whatever ``found_inf`` is. Uses up the memory of the gradients."""
    beta1, beta2 = group["betas"]
    torch._foreach_lerp_(means, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
    roots = gradients
    torch._foreach_copy_(roots, squares)
    torch._foreach_div_(roots, 1 - beta2**count)
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, group["eps"])
    torch._foreach_addcdiv_(weights, means, roots, value=-group["lr"] / (1 - beta1**count))


def _fused_adamw(
    weights: list[torch.Tensor],
    means: list[torch.Tensor],
    squares: list[torch.Tensor],
    gradients: list[torch.Tensor],
    group: dict[str, Any],
    count: int,
    found_inf: torch.Tensor | None,
) -> None:
    """The same in one launch, which does nothing where ``found_inf`` is true."""
    step = torch.full((), float(count), device=weights[0].device)
    fused_adamw(weights, gradients, means, squares, step, group, found_inf)


def _float_gradients(chunk: Sequence[Slice], params: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    gradients = [p.grad for p in params if p.grad is not None]
    parts = [part.of(gradients) for part in chunk]
    return views(flat(parts).float(), parts)


def stochastic_round(target: torch.Tensor, exact: torch.Tensor, generator: torch.Generator) -> None:
    """Round float32 ``exact`` to bfloat16, up or down with the probability of the fraction beyond, into ``target``.

    A bfloat16 is the upper half of a float32's bits. A random number added to the lower half carries into the upper
    half with the probability of that fraction; then the lower half is cut off.
    """
    bits = exact.view(torch.int32)
    sums = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    target.copy_(sums.add_(bits).bitwise_and_(-(1 << 16)).view(torch.float32))
