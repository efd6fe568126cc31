"""The diffusion process of training: how noise is drawn and added. Random numbers are a function of (seed, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def generator_for(*position: int | str) -> torch.Generator:
    """A CPU generator that depends on nothing but ``position``, e.g. (seed, "noise", step, micro-batch).

    A preview, a pause or a restart between two steps therefore cannot change what comes after.
    """
    digest = hashlib.blake2b("/".join(map(str, position)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def alphas_cumprod(scheduler: Mapping[str, Any]) -> torch.Tensor:
    """(T,) float32: share of the signal left at each timestep (DDPM, arXiv:2006.11239, eq. 4).

    ``scheduler``: the model's scheduler_config.json.
    """
    start, end = scheduler.get("beta_start", 0.00085), scheduler.get("beta_end", 0.012)
    steps = scheduler.get("num_train_timesteps", 1000)
    if scheduler.get("beta_schedule", "scaled_linear") == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:  # "scaled_linear": linear in the square root, as latent diffusion models are trained
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return (_zero_terminal(kept) if scheduler.get("rescale_betas_zero_snr") else kept).float()


def _zero_terminal(kept: torch.Tensor) -> torch.Tensor:
    """Shifted and scaled so that nothing of the signal is left at the end (arXiv:2305.08891, algorithm 1)."""
    signal = kept.sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    return ((signal - last) * first / (first - last)) ** 2


class NoiseSchedule:
    """Adds noise to latents and says what the unet should answer."""

    def __init__(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        kept = alphas_cumprod(scheduler)
        self.timesteps = len(kept)
        self.prediction_type = scheduler.get("prediction_type", "epsilon")
        self._signal = kept.sqrt().to(device)[:, None, None, None]
        self._noise = (1 - kept).sqrt().to(device)[:, None, None, None]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise; all (B, 4, h, w), t (B,) int64."""
        return torch.addcmul(self._signal[t] * latents, self._noise[t], noise)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the unet should predict: the noise, or for v-prediction (arXiv:2202.00512) the velocity."""
        if self.prediction_type == "v_prediction":
            return self._signal[t] * noise - self._noise[t] * latents
        return noise


def draw_noise(shape: torch.Size, generator: torch.Generator, offset: float = 0.0) -> torch.Tensor:
    """Normal noise, (B, 4, h, w). ``offset`` adds a share that is constant over each channel of a picture.

    Offset noise: https://www.crosslabs.org/blog/diffusion-with-offset-noise
    """
    noise = torch.randn(shape, generator=generator)
    if offset:
        noise += offset * torch.randn(shape[0], shape[1], 1, 1, generator=generator)
    return noise
