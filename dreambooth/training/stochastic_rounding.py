"""Stochastic rounding, and AdamW in pure bfloat16: weights, gradients and moments in 2 bytes each.

An update of 1e-6 of a weight is far below bfloat16's 8 bits, and rounding to nearest would lose all of them. Rounded up
with a probability equal to the fraction above the lower neighbor, the weight moves by the update on average
("Revisiting BFloat16 Training", arXiv:2010.06192). The random numbers are a function of seed and step, so that a
resumed run is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dreambooth.training.noise import generator_on


class StochasticRoundingAdamW(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) on bfloat16 parameters, computed in float32 for one parameter at a time."""

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
        self.seed = seed

    @torch.no_grad()
    def step(self) -> None:
        for number, group in enumerate(self.param_groups):
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for parameter in params:
                if not self.state[parameter]:
                    self._init_state(parameter)
            count = self.state[params[0]]["step"]
            count += 1
            generator = generator_on(params[0].device, self.seed, "rounding", int(count), number)
            for parameter in params:
                self.state[parameter]["step"] = count
                self._update(parameter, parameter.grad, group, int(count), generator)

    def _update(
        self,
        parameter: torch.nn.Parameter,
        gradient: torch.Tensor,
        group: dict[str, Any],
        count: int,
        generator: torch.Generator,
    ) -> None:
        """Step ``count`` of one parameter."""
        state, gradient = self.state[parameter], gradient.float()
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight = parameter.float().mul_(1 - group["lr"] * group["weight_decay"])
        root = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**count))
        for target, exact in ((parameter, weight), (state["exp_avg"], mean), (state["exp_avg_sq"], square)):
            stochastic_round(target, exact, generator)

    def _init_state(self, parameter: torch.nn.Parameter) -> None:
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


def stochastic_round(target: torch.Tensor, exact: torch.Tensor, generator: torch.Generator) -> None:
    """Round float32 ``exact`` into bfloat16 ``target``, up or down with the probability of the fraction beyond.

    A bfloat16 is the upper half of a float32's bits. A random number added to the lower half carries into the upper
    half with the probability of that fraction; then the lower half is cut off.
    """
    bits = exact.view(torch.int32)
    offset = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    target.copy_(((bits + offset) & -(1 << 16)).view(torch.float32))
