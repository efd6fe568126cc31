"""Adapter dropout whose mask is a pure function of seed, step, batch and layer.

torch's own dropout uses the process's generator, so that a preview or resuming a run would change all later masks.
Gradient checkpointing runs a layer twice and gets the same mask.
"""

from __future__ import annotations

import torch

from dreambooth.training.noise import generator_on


class AdapterDropout:
    """Dropout of all adapters of a run. The loop sets the position (:meth:`set_position`)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._position = (0, 0)

    def set_position(self, step: int, batch: int) -> None:
        """Masks from here on are those of this batch of this step."""
        self._position = step, batch

    def apply(self, x: torch.Tensor, p: float, layer: str) -> torch.Tensor:
        """``x`` with values zeroed with probability ``p`` and the others scaled by 1 / (1 - p)."""
        generator = generator_on(x.device, self.seed, "dropout", *self._position, layer)
        return x * torch.empty_like(x).bernoulli_(1 - p, generator=generator) / (1 - p)
