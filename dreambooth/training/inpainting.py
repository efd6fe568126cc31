"""Extra input channels of an inpainting model: a mask, and the latents of the masked image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from dreambooth.autocast import without_autocast
from dreambooth.dataset.pixels import load_mask, load_pixels
from dreambooth.dataset.plan import Example
from dreambooth.models.latents import LatentCodec

_FULL_MASK_PROBABILITY = 0.25  # a fully masked image trains what txt2img asks of an inpainting model
_MAX_SHAPES = 4


class InpaintingInputs:
    """The masks of a batch, random or those of the images, and the VAE that encodes the masked images."""

    def __init__(self, load_vae: Callable[[], Any], codec: LatentCodec, device: torch.device) -> None:
        self.vae, self.codec, self.device = load_vae().to(device), codec, device

    @torch.no_grad()
    def extra_channels(self, examples: Sequence[Example], generator: torch.Generator) -> torch.Tensor:
        """(B, 1 + C, h, w) float32: the mask (1: to be inpainted), then the normalized latents of the masked image."""
        masks = torch.stack([_mask(example, generator) for example in examples])
        pixels = torch.stack([load_pixels(example) for example in examples]) * (1 - masks)
        with without_autocast(self.device):  # some VAEs overflow in half precision
            mean, std = self.codec.moments(self.vae, pixels)
        noise = torch.randn(mean.shape, generator=generator).to(self.device)
        latents = self.codec.normalize((mean + std * noise).float())
        return torch.cat([latent_mask(masks.to(self.device), latents), latents], dim=1)


def latent_mask(masks: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Masks (B, 1, H, W), resized to the latents."""
    return F.interpolate(masks, size=latents.shape[-2:])


def random_mask(width: int, height: int, generator: torch.Generator) -> torch.Tensor:
    """(1, height, width) of 0 and 1: some rectangles and ellipses, or the whole image."""
    numbers = torch.rand(2 + 5 * _MAX_SHAPES, generator=generator).tolist()
    if numbers[0] < _FULL_MASK_PROBABILITY:
        return torch.ones(1, height, width)
    mask = torch.zeros(1, height, width)
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    for shape in range(1 + int(numbers[1] * _MAX_SHAPES)):
        kind, size_x, size_y, center_x, center_y = numbers[2 + 5 * shape : 7 + 5 * shape]
        half_w, half_h = width * (0.1 + 0.5 * size_x) / 2, height * (0.1 + 0.5 * size_y) / 2
        from_x, from_y = (x - center_x * width).abs() / half_w, (y - center_y * height).abs() / half_h
        inside = (from_x < 1) & (from_y < 1) if kind < 0.5 else from_x**2 + from_y**2 < 1
        mask[0, inside] = 1.0
    return mask


def _mask(example: Example, generator: torch.Generator) -> torch.Tensor:
    mask = load_mask(example)
    return random_mask(*example.bucket, generator) if mask is None else (mask > 0.5).float()
