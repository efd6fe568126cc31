"""A slowly moving average of the unet's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dreambooth.training.noise import generator_on
from dreambooth.training.stochastic_rounding import stochastic_round


class EMA:
    """Average in float32 or bfloat16, on the weights' device or, to spare a GPU's memory, on the CPU.

    At a decay of 0.9999 an update is far below bfloat16's 8 bits: it is rounded by lot (see rounded_adamw.py), so that
    on average nothing is lost. The lots are a function of seed and update.

    Its decay warms up as (1 + n) / (10 + n), so that a short run is not mostly its first step
    (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], decay: float, on_cpu: bool = False, *,
        dtype: torch.dtype = torch.float32, seed: int = 0,
    ) -> None:  # fmt: skip
        self.decay, self.updates, self.seed = decay, 0, seed
        self._live = list(parameters)
        self.averages = [torch.empty_like(p, dtype=dtype, device="cpu" if on_cpu else p.device) for p in self._live]
        self.load(self._live, 0)

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.averages[0].dtype == torch.bfloat16:
            self._update_by_lot(1 - decay)
            return
        live = [p.to(mine.device, torch.float32) for p, mine in zip(self._live, self.averages, strict=True)]
        torch._foreach_lerp_(self.averages, live, 1 - decay)

    def _update_by_lot(self, share: float) -> None:
        """Weight by weight, where the live ones are: a CPU would take long to draw so many lots."""
        lots = generator_on(self._live[0].device, self.seed, "ema", self.updates)
        for live, mine in zip(self._live, self.averages, strict=True):
            exact = mine.to(live.device, torch.float32).lerp_(live.float(), share)
            rounded = mine if mine.device == live.device else torch.empty_like(live, dtype=mine.dtype)
            stochastic_round(rounded, exact, lots)
            if rounded is not mine:
                mine.copy_(rounded)

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
