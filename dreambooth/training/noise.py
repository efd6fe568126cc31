"""The diffusion process of training: how noise is drawn and added. Random numbers are a function of (seed, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from dreambooth.settings import Settings


def generator_for(*position: int | str) -> torch.Generator:
    """A CPU generator that depends on nothing but ``position``, e.g. (seed, "noise", step, micro-batch).

    A preview, a pause or a restart between two steps therefore cannot change what comes after.
    """
    digest = hashlib.blake2b("/".join(map(str, position)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def generator_on(device: torch.device, *position: int | str) -> torch.Generator:
    """The same on ``device``, for more numbers than are to be brought there; each kind of device has its own."""
    return torch.Generator(device).manual_seed(generator_for(*position).initial_seed())


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

    def shares(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), (B, 1, 1, 1): what is left of the picture and what is added of the noise."""
        return self._signal[t], self._noise[t]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise; all (B, 4, h, w), t (B,) int64."""
        return torch.addcmul(self._signal[t] * latents, self._noise[t], noise)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the unet should predict: the noise, or for v-prediction (arXiv:2202.00512) the velocity."""
        if self.prediction_type == "v_prediction":
            return self._signal[t] * noise - self._noise[t] * latents
        return noise

    def noise_in(self, answer: torch.Tensor, seen: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noise that the unet's ``answer`` to ``seen`` stands for."""
        if self.prediction_type == "v_prediction":
            return self._signal[t] * answer + self._noise[t] * seen
        return answer


def trained_with(scheduler: Mapping[str, Any], zero_terminal_snr: bool) -> dict[str, Any]:
    """The model's scheduler config, with nothing of the picture left in the last step where that is asked for."""
    return {**scheduler, **({"rescale_betas_zero_snr": True} if zero_terminal_snr else {})}


def draw_noise(shape: torch.Size, generator: torch.Generator, settings: Settings) -> torch.Tensor:
    """Normal noise, (B, 4, h, w), with what the settings add to it.

    Offset noise is constant over each channel of a picture: https://www.crosslabs.org/blog/diffusion-with-offset-noise
    """
    noise = torch.randn(shape, generator=generator)
    if settings.multires_noise_iterations:
        noise = _pyramid(noise, generator, settings.multires_noise_iterations, settings.multires_noise_discount)
    if settings.offset_noise:
        noise += settings.offset_noise * torch.randn(shape[0], shape[1], 1, 1, generator=generator)
    return noise


def _pyramid(noise: torch.Tensor, generator: torch.Generator, levels: int, discount: float) -> torch.Tensor:
    """Multi-resolution noise (J. Whitaker, 2023): coarser and coarser noise is added, each level ``discount`` of the
    one before; each is 2 to 4 times as coarse as that. The sum is brought back to a deviation of 1 for each picture.
    """
    height, width = noise.shape[-2:]
    for level in range(1, levels + 1):
        coarser = 2 + 2 * torch.rand((), generator=generator).item()
        height, width = max(1, int(height / coarser)), max(1, int(width / coarser))
        more = torch.randn(*noise.shape[:2], height, width, generator=generator)
        noise = noise + discount**level * F.interpolate(more, size=noise.shape[-2:], mode="bilinear")
        if height == width == 1:
            break
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)
