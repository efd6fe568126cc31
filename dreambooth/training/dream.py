"""DREAM (arXiv:2312.00210): the unet is asked twice, and trained on what it would have seen after its own mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dreambooth.training.noise import NoiseSchedule


@torch.no_grad()
def rectified(
    predict: Callable[[torch.Tensor], torch.Tensor],
    schedule: NoiseSchedule,
    seen: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    preservation: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the unet sees and should answer in the step that learns, (B, 4, h, w) both.

    The noise grows by lambda (noise - predicted noise), lambda = sqrt(1 - a_t)^preservation (eq. 7 and 8): a larger
    ``preservation`` corrects less and keeps more detail. The picture stays the same, so that holds for velocity too.
    """
    _, share = schedule.shares(t)
    wrong = noise - schedule.noise_in(predict(seen), seen, t)
    torch.clear_autocast_cache()  # torch 2.1 would go on with copies of the weights that know of no gradients
    wrong = share**preservation * wrong
    return torch.addcmul(seen, share, wrong), schedule.target(clean, noise + wrong, t)
