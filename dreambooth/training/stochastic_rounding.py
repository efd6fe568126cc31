"""Full training in bfloat16 alone: weights, gradients and moments in 2 bytes each, rounded by lot.

A step of 1e-6 of a weight is far below bfloat16's 8 bits; rounded to the nearest it would be lost each time. Rounded up
with the probability of what is beyond the lower neighbour, the weight moves by the step on average ("Revisiting
BFloat16 Training", arXiv:2010.06192). The lots are a function of seed and step: resumed, the run is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dreambooth.training.noise import generator_on


class StochasticRoundingAdamW(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) on bfloat16 parameters, computed in float32 for one parameter at a time."""

    def __init__(
        self, params: Iterable[Any], seed: int, lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed = seed

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for number, group in enumerate(self.param_groups):
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for parameter in params:
                if not self.state[parameter]:
                    self._start(parameter)
            count = self.state[params[0]]["step"]
            count += 1
            lots = generator_on(params[0].device, self.seed, "rounding", int(count), number)
            for parameter in params:
                self.state[parameter]["step"] = count
                self._move(parameter, parameter.grad, group, int(count), lots)

    def _move(
        self, parameter: torch.nn.Parameter, gradient: torch.Tensor, group: dict[str, Any], count: int,
        lots: torch.Generator,
    ) -> None:  # fmt: skip
        """One parameter's step."""
        state, gradient = self.state[parameter], gradient.float()
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight = parameter.float().mul_(1 - group["lr"] * group["weight_decay"])
        root = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**count))
        for kept, exact in ((parameter, weight), (state["exp_avg"], mean), (state["exp_avg_sq"], square)):
            stochastic_round(kept, exact, lots)

    def _start(self, parameter: torch.nn.Parameter) -> None:
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


def stochastic_round(kept: torch.Tensor, exact: torch.Tensor, lots: torch.Generator) -> None:
    """Write float32 ``exact`` into bfloat16 ``kept``, up or down with the probability of what lies beyond.

    A bfloat16 is the upper half of a float32's bits. A random number added to the lower half carries into the upper one
    as often as that half is large; then it is cut off.
    """
    bits = exact.view(torch.int32)
    lot = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=lots)
    kept.copy_(((bits + lot) & -(1 << 16)).view(torch.float32))
