"""The states of bitsandbytes' 8-bit optimizers, without bitsandbytes: their sizes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from dreambooth.memory.replaced import replaced
from dreambooth.training import optimizer_kinds, optimizers
from dreambooth.training.optimizer_kinds import OptimizerKind

_BLOCK = 256  # values that share a scale
_SMALLEST = 4096  # elements; states of smaller weights stay in float32


class EightBitStates(torch.optim.Optimizer):
    """Has the states and takes no steps: bitsandbytes updates weights and states in one kernel, without temporaries."""

    def __init__(self, params: Any, lr: float = 1e-3, n_states: int = 2, **kwargs: object) -> None:
        super().__init__(params, {"lr": lr})
        self.n_states = n_states

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._state(parameter)

    def _state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        n, device = parameter.numel(), parameter.device
        state = {}
        for number in range(1, self.n_states + 1):
            if n < _SMALLEST:
                state[f"state{number}"] = torch.empty(parameter.shape, device=device)
                continue
            state[f"state{number}"] = torch.empty(parameter.shape, dtype=torch.uint8, device=device)
            state[f"absmax{number}"] = torch.empty(-(-n // _BLOCK), device=device)
        return state


class _OneState(EightBitStates):
    def __init__(self, params: Any, lr: float = 1e-3, **kwargs: object) -> None:
        super().__init__(params, lr, n_states=1)


@contextlib.contextmanager
def eight_bit_optimizers() -> Iterator[None]:
    """In the block, optimizers of bitsandbytes are these, and no optimizer is tried first."""
    find = optimizer_kinds._optimizer_class

    def optimizer_class(kind: OptimizerKind) -> Any:
        if not kind.library.startswith("bitsandbytes"):
            return find(kind)
        return EightBitStates if "AdamW" in kind.cls else _OneState

    with (
        replaced(optimizer_kinds, _optimizer_class=optimizer_class),
        replaced(optimizers, require_available=lambda *args: None),
    ):
        yield
