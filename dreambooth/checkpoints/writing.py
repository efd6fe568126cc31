"""Hashing, checking for NaN and infinity, and casting of tensors before they are written to a file."""

from __future__ import annotations

import hashlib

import torch

from dreambooth.errors import UserError
from dreambooth.tensor_files import DTYPES, tensor_bytes

FP8 = {dtype for name, dtype in DTYPES.items() if name.startswith("F8_")}

_CHUNK_SIZE = 1 << 16  # elements per conversion, few enough to stay in the CPU cache


def tensor_hash(tensor: torch.Tensor) -> str:
    """sha256 of the tensor's bytes. Dtype and shape are not part of it; the manifest stores them separately."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. Checks only minimum and maximum, which is much faster."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    try:
        return _has_finite_extremes(tensor)
    except RuntimeError:  # no aminmax for fp8, and in older torch for half precision
        return all(_has_finite_extremes(part.float()) for part in tensor.reshape(-1).split(_CHUNK_SIZE))


def _has_finite_extremes(tensor: torch.Tensor) -> bool:
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def trainable_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp8 is converted to fp16, which is exact: in fp8 most updates of training would be lost to rounding."""
    return torch.float16 if dtype in FP8 else dtype


def cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The tensor in ``dtype``. UserError when a value is out of range and would become infinite."""
    if tensor.dtype == dtype:
        return tensor
    converted = tensor.to(dtype)
    if not is_finite(converted):
        raise UserError(
            f"{name} has values too large for {str(dtype).removeprefix('torch.')}: use bf16 or fp32 instead."
        )
    return converted
