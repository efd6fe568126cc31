"""The noise of training, and random numbers that are a pure function of seed and position in the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from dreambooth.settings import Settings


def generator_for(*position: int | str) -> torch.Generator:
    """A CPU generator seeded by ``position`` alone, for example (seed, "noise", step, micro-batch).

    A preview, a pause or a resume between two steps therefore does not change later random numbers.
    """
    digest = hashlib.blake2b("/".join(map(str, position)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def generator_on(device: torch.device, *position: int | str) -> torch.Generator:
    """The same on ``device``, for tensors too large to be copied there. Device types differ in their numbers."""
    return torch.Generator(device).manual_seed(generator_for(*position).initial_seed())


def training_scheduler_config(scheduler: Mapping[str, Any], zero_terminal_snr: bool) -> dict[str, Any]:
    """The model's scheduler config, rescaled to zero terminal SNR if the settings say so."""
    return {**scheduler, **({"rescale_betas_zero_snr": True} if zero_terminal_snr else {})}


def sample_noise(shape: torch.Size, generator: torch.Generator, settings: Settings) -> torch.Tensor:
    """Normal noise, (B, C, h, w), with multi-resolution and offset noise as the settings say.

    Offset noise is constant over a channel of an image: https://www.crosslabs.org/blog/diffusion-with-offset-noise
    """
    noise = torch.randn(shape, generator=generator)
    if settings.multires_noise_iterations:
        noise = _multires_noise(noise, generator, settings.multires_noise_iterations, settings.multires_noise_discount)
    if settings.offset_noise:
        noise += settings.offset_noise * torch.randn(shape[0], shape[1], 1, 1, generator=generator)
    return noise


def _multires_noise(noise: torch.Tensor, generator: torch.Generator, levels: int, discount: float) -> torch.Tensor:
    """Multi-resolution noise (J. Whitaker, 2023): adds noise of decreasing resolution, weighted by powers of
    ``discount``.

    Each level has 1/2 to 1/4 of the resolution of the one before. The sum is normalized to a standard deviation of 1
    per image.
    """
    height, width = noise.shape[-2:]
    for level in range(1, levels + 1):
        divisor = 2 + 2 * torch.rand((), generator=generator).item()
        height, width = max(1, int(height / divisor)), max(1, int(width / divisor))
        coarse = torch.randn(*noise.shape[:2], height, width, generator=generator)
        noise = noise + discount**level * F.interpolate(coarse, size=noise.shape[-2:], mode="bilinear")
        if height == width == 1:
            break
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)
