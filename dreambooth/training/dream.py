"""DREAM (arXiv:2312.00210): rectified training target. The noise is adapted by the unet's own prediction error."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dreambooth.training.noise import NoiseSchedule


@torch.no_grad()
def dream_rectify(
    predict: Callable[[torch.Tensor], torch.Tensor],
    schedule: NoiseSchedule,
    noisy_latents: torch.Tensor,
    latents: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    preservation: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rectified (noisy_latents, target) of the training step, both (B, 4, h, w).

    The noise grows by lambda (noise - predicted noise), lambda = sqrt(1 - a_t)^preservation (eq. 7 and 8): a larger
    ``preservation`` corrects less and preserves more detail. The latents stay the same, so this holds for velocity too.
    """
    _, sigma = schedule.alphas_sigmas(t)
    error = noise - schedule.predicted_noise(predict(noisy_latents), noisy_latents, t)
    torch.clear_autocast_cache()  # torch 2.1 would reuse casts of the weights made under no_grad, without gradients
    error = sigma**preservation * error
    return torch.addcmul(noisy_latents, sigma, error), schedule.target(latents, noise + error, t)
