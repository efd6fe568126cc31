"""The diffusion process of training, and random numbers that are a pure function of seed and position in the run."""

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


def compute_alphas_cumprod(scheduler: Mapping[str, Any]) -> torch.Tensor:
    """Cumulative product of the alphas (DDPM, arXiv:2006.11239, eq. 4), (T,) float32.

    ``scheduler``: the model's scheduler_config.json.
    """
    start, end = scheduler.get("beta_start", 0.00085), scheduler.get("beta_end", 0.012)
    steps = scheduler.get("num_train_timesteps", 1000)
    if scheduler.get("beta_schedule", "scaled_linear") == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:  # "scaled_linear": linear in the square root, the schedule of latent diffusion models
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    if scheduler.get("rescale_betas_zero_snr"):
        alphas_cumprod = _rescale_zero_terminal_snr(alphas_cumprod)
    return alphas_cumprod.float()


def _rescale_zero_terminal_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Shifted and scaled to an SNR of zero at the last timestep (arXiv:2305.08891, algorithm 1)."""
    alphas = alphas_cumprod.sqrt()
    first, last = alphas[0].clone(), alphas[-1].clone()
    return ((alphas - last) * first / (first - last)) ** 2


class NoiseSchedule:
    """Adds noise to latents and computes the target of the prediction."""

    def __init__(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        alphas_cumprod = compute_alphas_cumprod(scheduler)
        self.timesteps = len(alphas_cumprod)
        self.prediction_type = scheduler.get("prediction_type", "epsilon")
        self._alphas = alphas_cumprod.sqrt().to(device)[:, None, None, None]
        self._sigmas = (1 - alphas_cumprod).sqrt().to(device)[:, None, None, None]

    def alphas_sigmas(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of latents and noise in the noisy latents, sqrt(a_t) and sqrt(1 - a_t), both (B, 1, 1, 1)."""
        return self._alphas[t], self._sigmas[t]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise; all (B, 4, h, w), ``t`` (B,) int64."""
        return torch.addcmul(self._alphas[t] * latents, self._sigmas[t], noise)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Target of the prediction: the noise, or for v-prediction (arXiv:2202.00512) the velocity."""
        if self.prediction_type == "v_prediction":
            return self._alphas[t] * noise - self._sigmas[t] * latents
        return noise

    def predicted_noise(self, model_output: torch.Tensor, noisy_latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The noise that corresponds to a model output."""
        if self.prediction_type == "v_prediction":
            return self._alphas[t] * model_output + self._sigmas[t] * noisy_latents
        return model_output


def training_scheduler_config(scheduler: Mapping[str, Any], zero_terminal_snr: bool) -> dict[str, Any]:
    """The model's scheduler config, rescaled to zero terminal SNR if the settings say so."""
    return {**scheduler, **({"rescale_betas_zero_snr": True} if zero_terminal_snr else {})}


def sample_noise(shape: torch.Size, generator: torch.Generator, settings: Settings) -> torch.Tensor:
    """Normal noise, (B, 4, h, w), with multi-resolution and offset noise as the settings say.

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
