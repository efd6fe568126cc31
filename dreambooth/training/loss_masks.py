"""Loss masks: each latent pixel's weight in the loss, from an image's mask file or its alpha channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from dreambooth.dataset.pixels import load_alpha, load_mask
from dreambooth.dataset.plan import Example
from dreambooth.models.transfer import to_device
from dreambooth.types import VAE_SCALE_FACTOR


class LossMasks:
    """Weights of latent pixels: 1 inside the mask, ``unmasked_weight`` outside; without mask and alpha, 1."""

    def __init__(self, unmasked_weight: float, device: torch.device) -> None:
        self.unmasked_weight, self.device = unmasked_weight, device
        self._cache: dict[Example, torch.Tensor] = {}

    def batch(self, examples: Sequence[Example]) -> torch.Tensor:
        """(B, 1, h, w) float32, from ``unmasked_weight`` to 1."""
        return to_device(torch.stack([self._weights(example) for example in examples]), self.device)

    def _weights(self, example: Example) -> torch.Tensor:
        if example not in self._cache:
            self._cache[example] = self.unmasked_weight + (1 - self.unmasked_weight) * _mask_coverage(example)
        return self._cache[example]


def _mask_coverage(example: Example) -> torch.Tensor:
    """(1, h, w): the fraction of each latent pixel's 8 x 8 pixels that is inside the mask."""
    mask = load_mask(example)
    mask = load_alpha(example) if mask is None else mask
    width, height = (side // VAE_SCALE_FACTOR for side in example.bucket)
    if mask is None:
        return torch.ones(1, height, width)
    return F.interpolate(mask[None], size=(height, width), mode="area")[0]
