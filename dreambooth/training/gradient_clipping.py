"""Gradient clipping: the norm that limits a group, and clipping of each tensor on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreambooth.settings import Settings


def max_norm_of(group: dict[str, Any], settings: Settings) -> float:
    """The norm that limits a parameter group; 0: no clipping."""
    text_norm = settings.tenc_grad_clip_norm
    return text_norm if text_norm and group["name"] == "text_encoder" else settings.max_grad_norm


def clip_each(gradients: Sequence[torch.Tensor], norms: torch.Tensor, max_norm: float) -> None:
    """Clip each of the gradients, whose ``norms`` are given, to ``max_norm``, in place."""
    torch._foreach_mul_(list(gradients), list((max_norm / norms).clamp(max=1.0).unbind()))
