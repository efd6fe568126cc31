"""What is done to tensors on their way into a file: hashed, checked for NaN and infinity, cast."""

from __future__ import annotations

import hashlib

import torch

from dreambooth.errors import UserError
from dreambooth.tensor_files import tensor_bytes

_IN_CACHE = 1 << 16  # elements; converting so few at a time never goes through main memory


def tensor_hash(tensor: torch.Tensor) -> str:
    """sha256 of the tensor's bytes; dtype and shape are kept beside it in the manifest."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity: its extremes tell, much sooner than a look at each element."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    try:
        return _has_finite_extremes(tensor)
    except RuntimeError:  # fp8 has no extremes of its own, and neither has half precision in older torch
        return all(_has_finite_extremes(part.float()) for part in tensor.reshape(-1).split(_IN_CACHE))


def _has_finite_extremes(tensor: torch.Tensor) -> bool:
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The tensor in ``dtype``. UserError when its values don't fit, rather than infinities in a file."""
    if tensor.dtype == dtype:
        return tensor
    narrowed = tensor.to(dtype)
    if not is_finite(narrowed):
        raise UserError(
            f"{name} holds values too large for {str(dtype).removeprefix('torch.')}: do without half precision."
        )
    return narrowed
