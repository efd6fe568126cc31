"""Where in a picture the loss counts: white of the mask beside it, or what its own alpha channel leaves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from dreambooth.dataset.pixels import load_alpha, load_mask
from dreambooth.dataset.plan import Example
from dreambooth.training.precision import to_device


class LossMasks:
    """Weights of latent pixels. A picture without mask and alpha counts everywhere."""

    def __init__(self, elsewhere: float, device: torch.device) -> None:
        self.elsewhere, self.device = elsewhere, device
        self._known: dict[Example, torch.Tensor] = {}

    def batch(self, examples: Sequence[Example]) -> torch.Tensor:
        """(B, 1, h, w) float32, from ``elsewhere`` to 1."""
        return to_device(torch.stack([self._weights(example) for example in examples]), self.device)

    def _weights(self, example: Example) -> torch.Tensor:
        if example not in self._known:
            self._known[example] = self.elsewhere + (1 - self.elsewhere) * _inside(example)
        return self._known[example]


def _inside(example: Example) -> torch.Tensor:
    """(1, h, w): the share of each latent pixel's 8 x 8 pixels that counts."""
    mask = load_mask(example)
    mask = load_alpha(example) if mask is None else mask
    width, height = example.bucket
    if mask is None:
        return torch.ones(1, height // 8, width // 8)
    return F.interpolate(mask[None], size=(height // 8, width // 8), mode="area")[0]
