"""DREAM (arXiv:2312.00210): rectified training target. The noise is adapted by the denoiser's own error."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dreambooth.models.process import Process


@torch.no_grad()
def dream_rectify(
    predict: Callable[[torch.Tensor], torch.Tensor],
    process: Process,
    noisy_latents: torch.Tensor,
    latents: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    preservation: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rectified (noisy_latents, target) of the training step, both (B, C, h, w).

    The noise grows by lambda (noise - predicted noise), lambda = sqrt(1 - a_t)^preservation (eq. 7 and 8): a larger
    ``preservation`` corrects less and preserves more detail. The latents stay the same, so this holds for velocity too.
    """
    _, sigma = process.alphas_sigmas(t)
    _, predicted_noise = process.x0_and_noise(predict(noisy_latents), noisy_latents, t)
    error = noise - predicted_noise
    torch.clear_autocast_cache()  # torch 2.1 would reuse casts of the weights made under no_grad, without gradients
    error = sigma**preservation * error
    return torch.addcmul(noisy_latents, sigma, error), process.target(latents, noise + error, t)
