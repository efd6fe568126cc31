"""AdamW (arXiv:1711.05101) on torch's fused kernel, with less Python overhead than torch.optim.

torch.optim.AdamW(fused=True) spends more time in Python than in its kernel when a model has hundreds of small
tensors, as adapters do. Here the kernel is called directly, one step count serves a whole group, and the kernel
itself clips (it divides by ``grad_scale`` as it reads each gradient) and skips steps that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from dreambooth.training.step_in_parts import StepInParts

_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
IS_STRICT_ABOUT_STRIDES = _VERSION < (2, 2)


class FusedAdamW(StepInParts):
    """Bit-identical to torch.optim.AdamW(fused=True)."""

    counts_on_device = True

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.grad_scale: torch.Tensor | None = None

    def step(self, found_inf: torch.Tensor | None = None, grad_scale: torch.Tensor | None = None) -> None:
        """Take a step. ``grad_scale``: divisor of the gradients."""
        self.grad_scale = grad_scale
        super().step(found_inf)
        self.grad_scale = None

    @torch.no_grad()
    def update(self, number: int, params: Sequence[torch.nn.Parameter], found_inf: torch.Tensor | None = None) -> None:
        group, count = self.param_groups[number], self.begin(number, params)
        states = [self.state[p] for p in params]
        moments = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        fused_adamw(params, _gradients(params), *moments, count, group, found_inf, self.grad_scale)


def fused_adamw(
    weights: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    means: Sequence[torch.Tensor],
    squares: Sequence[torch.Tensor],
    count: torch.Tensor,
    group: Mapping[str, Any],
    found_inf: torch.Tensor | None = None,
    grad_scale: torch.Tensor | None = None,
) -> None:
    """Step ``count`` in place, in one launch, which does nothing where ``found_inf`` is true."""
    torch._fused_adamw_(
        list(weights),
        list(gradients),
        list(means),
        list(squares),
        [],
        [count] * len(weights),
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
        grad_scale=grad_scale,
        found_inf=None if found_inf is None else found_inf.float(),
    )


def _gradients(params: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    """The gradients, with strides as the kernel accepts them.

    Before torch 2.2 it insisted on those of the weights, also along axes of size 1, where convolutions (1 x 1, rank 1)
    give others to their gradients (pytorch issues 106951 and 110758).
    """
    gradients = [p.grad for p in params if p.grad is not None]
    if not IS_STRICT_ABOUT_STRIDES:
        return gradients
    return [
        grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)
        for p, grad in zip(params, gradients, strict=True)
    ]


def has_fused_adamw(device: str) -> bool:
    """Whether torch has fused AdamW there: on CUDA since torch 2.0, on the CPU since 2.4."""
    return device == "cuda" or (device == "cpu" and _VERSION >= (2, 4))
