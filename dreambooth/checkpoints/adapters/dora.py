"""DoRA (arXiv:2402.09353): a weight's lengths along one axis, learnt apart from its directions."""

from __future__ import annotations

import torch

Shape = tuple[int, ...] | torch.Size


def decompose(weight: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """DoRA: ``weight`` with the lengths ``magnitude`` along one axis.

    (1, in[, 1, 1]) says the length of each input's column, as A1111 takes every magnitude; (out, 1[, 1, 1]), LyCORIS'
    default and peft's only one, that of each output's row. Gradients don't go through the lengths that are divided
    out (the paper's section 4.3).
    """
    kept = 0 if tuple(magnitude.shape[:2]) == (weight.shape[0], 1) else 1
    wanted = magnitude.float().reshape([-1 if axis == kept else 1 for axis in range(weight.dim())])
    found = vector_norms(weight, kept).detach().clamp(min=torch.finfo(torch.float32).tiny)  # a row may be all zeros
    return weight * (wanted / found)


def vector_norms(weight: torch.Tensor, kept: int) -> torch.Tensor:
    """Norms of W (0: of each output's row, 1: of each input's column), with as many axes as W."""
    return torch.linalg.vector_norm(weight, dim=[axis for axis in range(weight.dim()) if axis != kept], keepdim=True)


def is_magnitude(magnitude: torch.Tensor, shape: Shape) -> bool:
    """Whether a ``dora_scale`` belongs to a weight of ``shape``: (1, in, ...) or (out, 1, ...)."""
    axes = ((1, shape[1]), (shape[0], 1))
    return tuple(magnitude.shape[:2]) in axes and magnitude.numel() == max(magnitude.shape[:2])
