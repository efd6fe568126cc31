"""Latents to images: whole where memory allows it, otherwise in tiles and half precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.memory.placement import free_bytes, on_device
from dreambooth.models.latents import LatentCodec

# Feature maps of the decoder's last blocks, at the size of the image, that are in memory at once.
_FEATURE_MAPS = 3
_CHANNELS = (128, 256)  # of published VAEs, where the config does not tell
_HEADROOM = 1.2  # workspaces and fragments


@torch.no_grad()
def decode_images(codec: LatentCodec, vae: Any, latents: torch.Tensor) -> Iterator[Image.Image]:
    """The images of normalized latents (B, C, h, w), one at a time. The VAE is on their device only meanwhile.

    UserError if an image is not finite.
    """
    with on_device([vae], latents.device):
        for latent in latents:
            yield _image(_decode(codec, vae, latent[None]))


def decoding_bytes(codec: LatentCodec, vae: Any, latents: torch.Tensor) -> int:
    """Memory for decoding an image in one piece: the widest feature maps at the size of the image."""
    pixels = latents.shape[-2] * latents.shape[-1] * codec.downscale**2
    channels = getattr(vae.config, "block_out_channels", _CHANNELS)[:2]
    return _FEATURE_MAPS * pixels * max(channels) * vae.dtype.itemsize


def _decode(codec: LatentCodec, vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Pixels (3, H, W)."""
    free = free_bytes(latents.device)
    if free is None or free > _HEADROOM * decoding_bytes(codec, vae, latents):
        return codec.decode(vae, latents)[0]
    pixels = codec.decode_in_tiles(vae, latents, torch.bfloat16)[0]
    return pixels if torch.isfinite(pixels).all() else codec.decode_in_tiles(vae, latents)[0]


def _image(pixels: torch.Tensor) -> Image.Image:
    if not torch.isfinite(pixels).all():
        raise UserError("The image is black (NaN): the VAE overflows in half precision. Use a VAE fixed for fp16.")
    array = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)
