"""Loss masks: each latent pixel's weight in the loss, from an image's mask file or its alpha channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from dreambooth.dataset.pixels import load_alpha, load_mask
from dreambooth.dataset.plan import Example
from dreambooth.models.latents import LatentCodec
from dreambooth.models.transfer import to_device


class LossMasks:
    """Weights of latent pixels: 1 inside the mask, ``unmasked_weight`` outside; without mask and alpha, 1."""

    def __init__(self, unmasked_weight: float, codec: LatentCodec, device: torch.device) -> None:
        self.unmasked_weight, self.codec, self.device = unmasked_weight, codec, device
        self._cache: dict[Example, torch.Tensor] = {}

    def batch(self, examples: Sequence[Example]) -> torch.Tensor:
        """(B, 1, h, w) float32, from ``unmasked_weight`` to 1."""
        return to_device(torch.stack([self._weights(example) for example in examples]), self.device)

    def _weights(self, example: Example) -> torch.Tensor:
        if example not in self._cache:
            coverage = _mask_coverage(example, self.codec)
            self._cache[example] = self.unmasked_weight + (1 - self.unmasked_weight) * coverage
        return self._cache[example]


def _mask_coverage(example: Example, codec: LatentCodec) -> torch.Tensor:
    """(1, h, w): the fraction of each latent pixel's area that is inside the mask."""
    mask = load_mask(example)
    mask = load_alpha(example) if mask is None else mask
    width, height = codec.size(*example.bucket)
    if mask is None:
        return torch.ones(1, height, width)
    return F.interpolate(mask[None], size=(height, width), mode="area")[0]
