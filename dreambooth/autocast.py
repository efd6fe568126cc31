"""Autocast: switching it off, and its state."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda")  # the types of device that runs use autocast on


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block without autocast. On other devices there is none to switch off, and torch before 2.5 rejects mps."""
    import torch

    return torch.autocast(device.type, enabled=False) if device.type in DEVICES else contextlib.nullcontext()


def current_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context with autocast as it is now on ``device``, for computing something again later."""
    import torch

    if device.type not in DEVICES:
        return contextlib.nullcontext()
    if hasattr(torch, "get_autocast_dtype"):  # torch from 2.4 on
        enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    elif device.type == "cpu":
        enabled, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        enabled, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    if not enabled:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype, cache_enabled=torch.is_autocast_cache_enabled())
