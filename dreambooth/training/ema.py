"""A slowly moving average of the unet's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class EMA:
    """Average in float32, on the weights' device or, to spare a GPU's memory, on the CPU.

    Its decay warms up as (1 + n) / (10 + n), so that a short run is not mostly its first step
    (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float, on_cpu: bool = False) -> None:
        self.decay, self.updates = decay, 0
        self._live = list(parameters)
        self.averages = [
            torch.empty_like(p, dtype=torch.float32, device="cpu" if on_cpu else p.device) for p in self._live
        ]
        self.load(self._live, 0)

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = [p.to(mine.device, torch.float32) for p, mine in zip(self._live, self.averages, strict=True)]
        torch._foreach_lerp_(self.averages, live, 1 - decay)

    def swap(self) -> None:
        """Exchange averages and live weights; called twice it restores both bit for bit.

        Only the memory that they stand for changes hands: on one device nothing is copied, and nothing can fail
        half-way. From the CPU, weight by weight is brought over; should the GPU's memory not be enough, those that were
        exchanged go back.
        """
        done = 0
        try:
            for i, live in enumerate(self._live):
                mine, theirs = self.averages[i], live.data
                live.data, self.averages[i] = mine.to(theirs.device), theirs.to(mine.device)
                done += 1
        except BaseException:
            for i, live in enumerate(self._live[:done]):
                mine, theirs = self.averages[i], live.data
                live.data, self.averages[i] = mine.to(theirs.device), theirs.to(mine.device)
            raise

    @torch.no_grad()
    def load(self, averages: Sequence[torch.Tensor], updates: int) -> None:
        for mine, saved in zip(self.averages, averages, strict=True):
            mine.copy_(saved)
        self.updates = updates
