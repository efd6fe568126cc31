"""Extra input channels of an inpainting model: a mask, and the latents of the masked image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from dreambooth.autocast import without_autocast
from dreambooth.dataset.pixels import load_mask, load_rgb, scaled
from dreambooth.dataset.plan import Example
from dreambooth.models.latents import LatentCodec
from dreambooth.models.transfer import to_device
from dreambooth.training.inputs import PixelsKey

_FULL_MASK_PROBABILITY = 0.25  # a fully masked image trains what txt2img asks of an inpainting model
_MAX_SHAPES = 4
_MAX_CACHED = 1 << 30  # bytes: 1,300 images of 512 x 512 pixels


class InpaintingInputs:
    """The masks of a batch, random or those of the images, and the VAE that encodes the masked images.

    A random mask is another one in each step, so that these latents can't be cached; the decoded images are.
    """

    def __init__(self, load_vae: Callable[[], Any], codec: LatentCodec, device: torch.device) -> None:
        vae = load_vae()
        vae.decoder = torch.nn.Identity()  # most of a VAE's weights
        self.vae, self.codec, self.device = vae.to(device), codec, device
        self._images = _Images()

    @torch.no_grad()
    def extra_channels(self, examples: Sequence[Example], generator: torch.Generator) -> torch.Tensor:
        """(B, 1 + C, h, w) float32: the mask (1: to be inpainted), then the normalized latents of the masked image."""
        masks = torch.stack([_mask(example, generator) for example in examples])
        pairs = zip(examples, masks, strict=True)
        moments = torch.cat([self._moments(self._images.pixels(example) * (1 - mask)) for example, mask in pairs])
        mean, std = moments.chunk(2, dim=1)
        noise = to_device(torch.randn(mean.shape, generator=generator), self.device)
        latents = self.codec.normalize(mean + std * noise)
        return torch.cat([latent_mask(to_device(masks, self.device), latents), latents], dim=1)

    def _moments(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 2C, h, w) of one image: a batch's feature maps would take more memory than the denoiser's."""
        with without_autocast(self.device):  # some VAEs overflow in half precision
            return torch.cat(self.codec.moments(self.vae, to_device(pixels[None], self.device)), dim=1).float()


class _Images:
    """Decoded images in main memory, as far as they have room."""

    def __init__(self) -> None:
        self._cached: dict[PixelsKey, torch.Tensor] = {}
        self._room = _MAX_CACHED

    def pixels(self, example: Example) -> torch.Tensor:
        """As :func:`load_pixels`."""
        key = example.pixels_key
        rgb = self._cached[key] if key in self._cached else load_rgb(example)
        if key not in self._cached and rgb.nbytes <= self._room:
            self._cached[key] = rgb
            self._room -= rgb.nbytes
        return scaled(rgb)


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
