"""How far an answer is from its target, element by element; and where Huber's quadratic part ends."""

from __future__ import annotations

import math

import torch


def distance(kind: str, predicted: torch.Tensor, target: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """ "l2", "l1", or the pseudo-Huber loss (arXiv:2403.16728, eq. 5): squares below ``threshold``, lengths above.

    huber: 2c (sqrt(d^2 + c^2) - c), which is d^2 near zero whatever c is; smooth_l1: 2 (sqrt(d^2 + c^2) - c), which is
    2 |d| far away. All (B, 4, h, w); ``threshold`` (B, 1, 1, 1).
    """
    off = predicted - target
    if kind == "l1":
        return off.abs()
    if kind == "l2":
        return off.square()
    bent = 2 * ((off.square() + threshold.square()).sqrt() - threshold)
    return bent * threshold if kind == "huber" else bent


def huber_threshold(
    schedule: str, least: float, t: torch.Tensor, timesteps: int, signal: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """c of each timestep, shaped as ``signal`` and ``noise`` (roots of the shares that are left and added).

    constant: ``least``; exponential: falls from 1 to ``least`` (arXiv:2403.16728, eq. 8); snr: (1 - least) /
    (1 + sigma)^2 + least, with sigma = noise / signal.
    """
    if schedule == "constant":
        return torch.full_like(signal, least)
    if schedule == "exponential":
        return torch.exp(t.view_as(signal) * (math.log(least) / timesteps)).to(signal.dtype)
    return (1 - least) * (signal / (signal + noise)).square() + least
