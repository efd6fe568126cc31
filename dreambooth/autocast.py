"""Switching autocast off."""

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
