"""What of the adapters is left out of a step, so that none of their values comes to count on another.

torch's own dropout draws from the process's generator: a preview or a restart would change what comes after. Here the
lots are a function of seed, step, batch and layer. Gradient checkpointing, which runs a layer twice, finds the same.
"""

from __future__ import annotations

import torch

from dreambooth.training.noise import generator_on


class AdapterDropout:
    """Shared by all adapters of a run; the loop says where it stands (:meth:`at`)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._place = (0, 0)

    def at(self, step: int, batch: int) -> None:
        """What is dropped from here on belongs to this batch of this step."""
        self._place = step, batch

    def drop(self, x: torch.Tensor, share: float, layer: str) -> torch.Tensor:
        """``x`` with this share of its values at zero and the others larger, so that the mean stays."""
        lots = generator_on(x.device, self.seed, "dropout", *self._place, layer)
        return x * torch.empty_like(x).bernoulli_(1 - share, generator=lots) / (1 - share)
