"""Shift of the timesteps of rectified flow towards noise, and how it depends on the resolution.

A shift by mu is one by exp(mu), as in diffusers' FlowMatchEulerDiscreteScheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_FEW_STEPS, _MANY_STEPS = 10, 200  # of empirical_mu's two lines
_MANY_TOKENS = 4300  # above, the number of steps has no influence


def shift_sigmas(sigmas: torch.Tensor, shift: float) -> torch.Tensor:
    """Timestep shift of arXiv:2403.03206, eq. 23: above 1 towards noise. Two of them are one by their product."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def linear_mu(scheduler: Mapping[str, Any], n_tokens: int) -> float:
    """mu of FLUX.1, linear in the number of tokens. ``scheduler``: the model's scheduler_config.json.

    From base_shift at base_image_seq_len tokens to max_shift at max_image_seq_len, and beyond on the same line.
    """
    fewest, most = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    return low + (high - low) * (n_tokens - fewest) / (most - fewest)


def empirical_mu(n_tokens: int, steps: int) -> float:
    """mu of FLUX.2's sampler, as compute_empirical_mu of diffusers' Flux2Pipeline: fewer steps are shifted more.

    Two lines, fitted for 10 and for 200 steps, and on the line between them for other numbers of steps. That for 200
    is FLUX.1's, with which timesteps are trained.
    """
    many = 0.00016927 * n_tokens + 0.45666666
    if n_tokens > _MANY_TOKENS:
        return many
    few = 8.73809524e-05 * n_tokens + 1.89833333
    return many + (few - many) * (_MANY_STEPS - steps) / (_MANY_STEPS - _FEW_STEPS)
