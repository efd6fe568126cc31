"""A slowly moving average of the unet's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class EMA:
    """Average in float32 on the weights' device.

    Its decay warms up as (1 + n) / (10 + n), so that a short run is not mostly its first step
    (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._live = list(parameters)
        self.averages = [p.detach().float().clone() for p in self._live]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, [p.float() for p in self._live], 1 - decay)

    def swap(self) -> None:
        """Exchange averages and live weights; called twice it restores both bit for bit.

        Only the memory that they stand for changes hands: nothing is copied, and nothing can fail half-way.
        """
        for i, live in enumerate(self._live):
            live.data, self.averages[i] = self.averages[i], live.data

    @torch.no_grad()
    def load(self, averages: Sequence[torch.Tensor], updates: int) -> None:
        for mine, saved in zip(self.averages, averages, strict=True):
            mine.copy_(saved)
        self.updates = updates
