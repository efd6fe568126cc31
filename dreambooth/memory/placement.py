"""Modules on the device only while they are used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn


@contextlib.contextmanager
def on_device(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """In the block the modules are on ``device``; afterwards each is where it was."""
    moved: list[tuple[nn.Module, torch.device]] = []
    try:
        for module in modules:
            before = next(module.parameters()).device
            if before.type != device.type:
                moved.append((module, before))
                module.to(device)
        yield
    finally:
        for module, before in moved:
            module.to(before)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated, including what torch has reserved; None where that is not known."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
