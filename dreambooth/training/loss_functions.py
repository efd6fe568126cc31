"""Elementwise loss functions, and the threshold of the Huber loss by timestep."""

from __future__ import annotations

import math

import torch


def elementwise_loss(kind: str, predicted: torch.Tensor, target: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """ "l2", "l1", or the pseudo-Huber loss (arXiv:2403.16728, eq. 5): squared below ``threshold``, linear above.

    huber: 2c (sqrt(d^2 + c^2) - c), which is d^2 near zero for any c; smooth_l1: 2 (sqrt(d^2 + c^2) - c), which tends
    to 2 |d|. All (B, C, h, w); ``threshold`` (B, 1, 1, 1).
    """
    error = predicted - target
    if kind == "l1":
        return error.abs()
    if kind == "l2":
        return error.square()
    pseudo_huber = 2 * ((error.square() + threshold.square()).sqrt() - threshold)
    return pseudo_huber * threshold if kind == "huber" else pseudo_huber


def huber_threshold(
    schedule: str, minimum: float, t: torch.Tensor, timesteps: int, alphas: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """c of each timestep, (B, 1, 1, 1). ``alphas`` and ``sigmas``: see :meth:`Process.alphas_sigmas`.

    constant: ``minimum``; exponential: falls from 1 to ``minimum`` (arXiv:2403.16728, eq. 8); snr: (1 - minimum) /
    (1 + sigma / alpha)^2 + minimum.
    """
    if schedule == "constant":
        return torch.full_like(alphas, minimum)
    if schedule == "exponential":
        return torch.exp(t.view_as(alphas) * (math.log(minimum) / timesteps)).to(alphas.dtype)
    return (1 - minimum) * (alphas / (alphas + sigmas)).square() + minimum
