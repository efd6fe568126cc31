"""AdamW (arXiv:1711.05101) on torch's fused kernel, with less Python overhead than torch.optim.

torch.optim.AdamW(fused=True) spends more time in Python than in its kernel when a model has hundreds of small
tensors, as adapters do. Here the kernel is called directly, one step count serves a whole group, and the kernel
itself clips (it divides by ``grad_scale`` as it reads each gradient) and skips steps that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class FusedAdamW(torch.optim.Optimizer):
    """Bit-identical to torch.optim.AdamW(fused=True). All parameters of a group must be on one device."""

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, grad_scale: torch.Tensor | None = None, found_inf: torch.Tensor | None = None) -> None:
        """Take a step. ``grad_scale``: divisor of the gradients; ``found_inf``: 1.0 skips the step."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            states = [self.state[p] or self._init_state(p) for p in params]
            count = states[0]["step"]
            count += 1
            torch._fused_adamw_(
                params,
                [p.grad for p in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [count] * len(params),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=grad_scale,
                found_inf=found_inf,
            )
            if found_inf is not None:
                count -= found_inf

    def state_dict(self) -> dict[str, Any]:
        """In the format of torch.optim.AdamW, which counts steps per parameter: each can load the other's."""
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"] if p in self.state]
            for state in states[1:]:
                state["step"] = states[0]["step"].clone()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():  # torch loads step counts onto the CPU
            state["step"] = state["step"].to(parameter.device, torch.float32)

    def _init_state(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """Moments of a parameter. Only the step count of each group's first parameter is used."""
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def has_fused_adamw(device: str) -> bool:
    """Whether torch has fused AdamW there: on CUDA since torch 2.0, on the CPU since 2.4."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return device == "cuda" or (device == "cpu" and (major, minor) >= (2, 4))
