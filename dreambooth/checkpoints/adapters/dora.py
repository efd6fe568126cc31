"""DoRA (arXiv:2402.09353): a weight as trainable magnitudes (norms along one axis) times directions."""

from __future__ import annotations

import torch

Shape = tuple[int, ...] | torch.Size


def decompose(weight: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """Rescale ``weight`` so that its norms along one axis are ``magnitude``.

    A magnitude (1, in[, 1, 1]) holds the norm of each input column, as A1111 reads every magnitude; (out, 1[, 1, 1]),
    the default of LyCORIS and the only form in peft, that of each output row. The current norms are detached from the
    graph (section 4.3 of the paper).
    """
    axis = 0 if tuple(magnitude.shape[:2]) == (weight.shape[0], 1) else 1
    target = magnitude.float().reshape([-1 if dim == axis else 1 for dim in range(weight.dim())])
    norms = vector_norms(weight, axis).detach().clamp(min=torch.finfo(torch.float32).tiny)  # a row may be all zeros
    return weight * (target / norms)


def vector_norms(weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Norms of the output rows (``axis`` 0) or input columns (1) of a weight, with the other axes kept as size 1."""
    return torch.linalg.vector_norm(weight, dim=[dim for dim in range(weight.dim()) if dim != axis], keepdim=True)


def could_be_magnitude(magnitude: torch.Tensor, size: tuple[int, int]) -> bool:
    """Whether a ``dora_scale`` fits some weight of ``size``: rows and columns, the latter with flattened kernels."""
    rows, columns = size
    n = magnitude.numel()
    per_row, per_column = tuple(magnitude.shape[:2]) == (rows, 1), magnitude.shape[0] == 1
    return magnitude.dim() > 1 and ((per_row and n == rows) or (per_column and n > 0 and columns % n == 0))


def is_magnitude(magnitude: torch.Tensor, shape: Shape) -> bool:
    """Whether a ``dora_scale`` fits a weight of ``shape``: (1, in, ...) or (out, 1, ...)."""
    axes = ((1, shape[1]), (shape[0], 1))
    return tuple(magnitude.shape[:2]) in axes and magnitude.numel() == max(magnitude.shape[:2])
