"""Pixels to the latents that a denoiser is trained on, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LatentCodec:
    """The latents of a family: their size, and the normalization between the VAE and the denoiser.

    Latents (B, channels, h, w) are normalized to (x - shift) * scale, then per channel to (x - mean) / std where the
    family has such statistics (FLUX.2, Qwen-Image). A denoiser on tokens packs ``patch`` x ``patch`` latent pixels into
    each of them. ``packing`` is for families whose latents are packed outside the denoiser: pixels of the VAE's latents
    per latent pixel, along each side. Subclasses override :meth:`moments` and :meth:`decode` for VAEs with another
    interface.
    """

    channels: int
    downscale: int  # image pixels per latent pixel, along each side
    patch: int = 1  # latent pixels per token, along each side
    scale: float = 1.0
    shift: float = 0.0
    mean: tuple[float, ...] = ()  # per channel, of latents that are shifted and scaled; () for none
    std: tuple[float, ...] = ()
    packing: int = 1

    @property
    def pixel_multiple(self) -> int:
        """What width and height of images are multiples of."""
        return self.downscale * self.patch

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the latents of an image."""
        return width // self.downscale, height // self.downscale

    def normalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of the VAE as the denoiser takes them."""
        if self.shift:
            latents = latents - self.shift
        latents = latents * self.scale
        if not self.std:
            return latents
        return (latents - self._per_channel(self.mean, latents)) / self._per_channel(self.std, latents)

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`normalize`."""
        if self.std:
            latents = latents * self._per_channel(self.std, latents) + self._per_channel(self.mean, latents)
        latents = latents / self.scale
        return latents + self.shift if self.shift else latents

    def moments(self, vae: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the VAE's posterior, (B, channels, h, w) each in its dtype; not normalized.

        ``pixels`` (B, 3, H, W) from -1 to 1. A VAE without a posterior has a deviation of zero.
        """
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        return posterior.mean, posterior.std

    def decode(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (B, 3, H, W), from -1 to 1 but for overshoots, float32, from normalized latents."""
        return vae.decode(self.denormalize(latents).to(vae.dtype), return_dict=False)[0].float()

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) as tokens (B, h * w / patch^2, C * patch^2), row by row."""
        from torch.nn.functional import pixel_unshuffle

        return pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)

    def unpack(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """The inverse of :meth:`pack`, for latents of ``height`` x ``width``."""
        from torch.nn.functional import pixel_shuffle

        grid = tokens.transpose(1, 2).unflatten(2, (height // self.patch, width // self.patch))
        return pixel_shuffle(grid, self.patch)

    @staticmethod
    def _per_channel(values: tuple[float, ...], latents: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.tensor(values, dtype=latents.dtype, device=latents.device).view(-1, 1, 1)
