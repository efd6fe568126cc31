"""Launches of kernels and sizes of temporaries, counted without a GPU."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = ("view", "split", "detach", "slice", "alias", "unsafe_view", "reshape", "empty")


class Recorded(TorchDispatchMode):
    """Operations that launch kernels on a GPU, and the elements of the largest tensor that one of them makes."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        self.launches += not name.startswith(VIEWS)
        if isinstance(result, torch.Tensor) and not name.startswith(VIEWS):
            self.largest = max(self.largest, result.numel())
        return result
