"""Base of our own optimizers: parameters of one step may be updated in several calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class StepInParts(torch.optim.Optimizer):
    """An optimizer that can update some parameters while gradients of others are still to come.

    All parameters of a group must be on one device. They share a step count, which the first update of a step advances.
    State dicts have the format of torch.optim.AdamW, which counts steps per parameter: each can load the other's.
    """

    counts_on_device = False  # whether kernels read the step count
    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._counts: dict[int, torch.Tensor] = {}  # by number of the group
        self._advanced: set[int] = set()  # groups whose count has been advanced in this step

    def update(self, number: int, params: Sequence[torch.nn.Parameter], found_inf: torch.Tensor | None = None) -> None:
        """Update ``params`` of group ``number``, all of which have gradients.

        ``found_inf``: a boolean scalar on the device; True leaves weights and moments as they are.
        """
        raise NotImplementedError

    def end_step(self) -> None:
        """The next update begins a new step."""
        self._advanced.clear()

    @torch.no_grad()
    def step(self, found_inf: torch.Tensor | None = None) -> None:
        """Update all parameters that have gradients."""
        for number, group in enumerate(self.param_groups):
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self.update(number, params, found_inf)
        if found_inf is not None and self.counts_on_device:
            for number in self._advanced:
                self._counts[number] -= found_inf.float()
        self.end_step()

    def begin(self, number: int, params: Sequence[torch.nn.Parameter]) -> torch.Tensor:
        """The group's step count, for :meth:`update`. ``params`` have their moments afterwards."""
        count = self._count(number)
        if number not in self._advanced:
            self._advanced.add(number)
            count += 1
        for parameter in params:
            state = self.state[parameter]
            if not state:
                state["step"] = count
                state |= {moment: torch.zeros_like(parameter) for moment in self.moments}
        return count

    def _count(self, number: int) -> torch.Tensor:
        """That of the group's first parameter, after a state was loaded."""
        if number not in self._counts:
            params = self.param_groups[number]["params"]
            states = [self.state[p] for p in params if p in self.state]
            device = params[0].device if self.counts_on_device else "cpu"
            count = states[0]["step"].to(device, torch.float32) if states else torch.zeros((), device=device)
            self._counts[number] = count
            if states:
                states[0]["step"] = count
        return self._counts[number]

    def state_dict(self) -> dict[str, Any]:
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"] if p in self.state]
            for state in states[1:]:
                state["step"] = states[0]["step"].clone()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._counts.clear()
        self._advanced.clear()


def update_with(optimizer: torch.optim.Optimizer, number: int, params: Sequence[torch.nn.Parameter]) -> None:
    """Let an optimizer of a library take a step with ``params``, of group ``number``, alone."""
    groups = optimizer.param_groups
    group = groups[number]
    all_params = group["params"]
    try:
        optimizer.param_groups = [group]
        group["params"] = list(params)
        optimizer.step()
    finally:
        group["params"] = all_params
        optimizer.param_groups = groups
