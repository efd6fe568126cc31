"""Modules on the device only while they are used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from dreambooth.memory.offload import BlockOffload, repeated_blocks

_HEADROOM = 1.2  # activations and fragments


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


@contextlib.contextmanager
def on_device_or_cpu(modules: Iterable[nn.Module], device: torch.device) -> Iterator[torch.device]:
    """As :func:`on_device`, or in float32 on the CPU where ``device`` has no room for them. Yields where they are.

    Modules whose quantized weights are on ``device`` already are always moved there: on the CPU they would be cast.
    """
    elsewhere = [module for module in modules if next(module.parameters()).device.type != device.type]
    n_bytes = sum(parameter.nbytes for module in elsewhere for parameter in module.parameters())
    is_partly_there = any(buffer.device.type == device.type for module in elsewhere for buffer in module.buffers())
    if not elsewhere or is_partly_there or has_room(device, n_bytes):
        with on_device(elsewhere, device):
            yield device
        return
    before = [next(module.parameters()).dtype for module in elsewhere]
    try:
        for module in elsewhere:
            nn.Module.to(module, torch.float32)  # half precision lacks operators on the CPU
        yield torch.device("cpu")
    finally:
        for module, dtype in zip(elsewhere, before, strict=True):
            nn.Module.to(module, dtype)


@contextlib.contextmanager
def weights_on_device(module: nn.Module, device: torch.device, activations: int) -> Iterator[None]:
    """In the block a denoiser, which is not used afterwards, computes on ``device`` without gradients.

    Where its weights and ``activations`` (bytes) don't fit there together, as many of its blocks as necessary stay in
    main memory (:class:`BlockOffload`): it then computes the same, more slowly.
    """
    free, n_bytes = free_bytes(device), _n_bytes(module)
    missing = 0 if free is None else n_bytes + activations - free
    if missing <= 0:
        module.to(device)
        yield
        return
    in_blocks = sum(_n_bytes(block) for block in repeated_blocks(module))
    offload = BlockOffload(module, min(1.0, missing / max(1, in_blocks)), device)
    try:
        yield
    finally:
        offload.wait()


def _n_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def has_room(device: torch.device, n_bytes: int) -> bool:
    """Whether so much can be allocated, with activations beside it. True where that is not known."""
    free = free_bytes(device)
    return free is None or free > _HEADROOM * n_bytes


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated, including what torch has reserved; None where that is not known."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
