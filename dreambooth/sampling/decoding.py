"""Latents to images: whole where memory allows it, otherwise in tiles and half precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import nn

from dreambooth.errors import UserError
from dreambooth.memory.placement import free_bytes, on_device
from dreambooth.models.latents import LatentCodec

# Feature maps of the decoder's last blocks, at the size of the image, that are in memory at once: a block's input, and,
# with half as many channels each, the outputs of its convolution and its shortcut, their sum, and the sum scaled.
_FEATURE_MAPS = 3
_CHANNELS = (128, 256)  # of published VAEs, where the config does not tell
_HEADROOM = 1.2  # workspaces and fragments
_TILES = (512, 256)  # pixels of a side; the first for which memory suffices
_FOR_ENCODING = ("encoder", "quant_conv")  # parts of a VAE


@torch.no_grad()
def decode_images(codec: LatentCodec, vae: Any, latents: torch.Tensor) -> Iterator[Image.Image]:
    """The images of normalized latents (B, C, h, w), one at a time. The decoder is on their device only meanwhile.

    UserError if an image is not finite.
    """
    free, (height, width) = free_bytes(latents.device), latents.shape[-2:]
    pixels = height * width * codec.downscale**2
    tile = None
    if free is not None and free < _weights(vae) + decoding_bytes(vae, pixels):
        half_of_weights = _weights(vae) // 2
        fitting = [side for side in _TILES if free > half_of_weights + decoding_bytes(vae, side**2, torch.bfloat16)]
        tile = next(iter(fitting), _TILES[-1])
    if tile:
        yield from map(_image, _decode_in_tiles(codec, vae, latents, tile))
        return
    with on_device(_parts_for_decoding(vae), latents.device):
        for latent in latents.split(1):
            yield _image(codec.decode(vae, latent)[0])


def decoding_bytes(vae: Any, pixels: int, dtype: torch.dtype | None = None) -> int:
    """Memory for decoding an image of so many pixels in one piece: the widest feature maps at its size."""
    channels = getattr(vae.config, "block_out_channels", _CHANNELS)[:2]
    return int(_HEADROOM * _FEATURE_MAPS * pixels * max(channels) * (dtype or vae.dtype).itemsize)


def _weights(vae: Any) -> int:
    return sum(parameter.nbytes for part in _parts_for_decoding(vae) for parameter in part.parameters())


def _parts_for_decoding(vae: Any) -> list[nn.Module]:
    parts = [part for name, part in vae.named_children() if name not in _FOR_ENCODING]
    return [part for part in parts if next(part.parameters(), None) is not None]


def _decode_in_tiles(codec: LatentCodec, vae: Any, latents: torch.Tensor, tile: int) -> Iterator[torch.Tensor]:
    """Pixels (3, H, W) of each image, of overlapping tiles whose edges are blended: in bfloat16, or in the VAE's own
    precision for an image that overflows.
    """
    half = _tiled_copy(codec, vae, tile, torch.bfloat16, latents.device)
    for latent in latents.split(1):
        pixels = codec.decode(half, latent)[0]
        if not _is_finite(pixels):
            pixels = codec.decode(_tiled_copy(codec, vae, tile, vae.dtype, latents.device), latent)[0]
        yield pixels


def _tiled_copy(codec: LatentCodec, vae: Any, tile: int, dtype: torch.dtype, device: torch.device) -> Any:
    """The VAE in ``dtype``, without its encoder, decoding in tiles; ``vae`` keeps its precision."""
    without: dict[int, Any] = {id(part): nn.Identity() for name, part in vae.named_children() if name in _FOR_ENCODING}
    tiled: Any = nn.Module.to(copy.deepcopy(vae, without), device, dtype)  # diffusers' own method warns
    tiled.enable_tiling()
    if hasattr(tiled, "tile_latent_min_size"):
        tiled.tile_sample_min_size, tiled.tile_latent_min_size = tile, tile * codec.packing // codec.downscale
    else:  # of VAEs for videos
        tiled.tile_sample_min_height = tiled.tile_sample_min_width = tile
        tiled.tile_sample_stride_height = tiled.tile_sample_stride_width = tile * 3 // 4
    return tiled


def _image(pixels: torch.Tensor) -> Image.Image:
    if not _is_finite(pixels):
        raise UserError("The image is black (NaN): the VAE overflows in half precision. Use a VAE fixed for fp16.")
    array = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def _is_finite(pixels: torch.Tensor) -> bool:
    return bool(torch.isfinite(pixels).all())
