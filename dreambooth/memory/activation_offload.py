"""Activation offload: what the backward pass needs of the forward pass waits in main memory.

With gradient checkpointing these are the inputs of the checkpointed blocks. Each is copied to pinned memory while the
forward pass goes on, and back to the GPU while the block after it is computed again in the backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

MIN_BYTES = 1 << 18  # smaller tensors stay on the device
AHEAD = 2  # activations that are copied back before they are needed


@dataclass(eq=False)
class _Saved:
    """An activation in main memory, and its copy on the device from a little before it is used."""

    host: torch.Tensor
    copied: Any  # event at the end of the last copy
    on_device: torch.Tensor | None = None


@dataclass
class _Pass:
    """One forward pass: what it saved, in order, and what still is read by a copy to main memory."""

    saved: list[_Saved] = field(default_factory=list)
    leaving: list[tuple[Any, torch.Tensor]] = field(default_factory=list)


class ActivationOffload:
    """Offloads what a module saves for its backward pass in the block :meth:`saving`, on a stream of its own."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self.device = module, device
        self._stream = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """In the block, tensors that are saved for the backward pass go to main memory."""
        forward, weights = _Pass(), {_storage(parameter) for parameter in self.module.parameters()}

        def pack(tensor: torch.Tensor) -> Any:
            is_moved = tensor.is_cuda and tensor.nbytes >= MIN_BYTES and _storage(tensor) not in weights
            return self._pack(forward, tensor) if is_moved else tensor

        def unpack(packed: Any) -> torch.Tensor:
            return self._unpack(forward, packed) if isinstance(packed, _Saved) else packed

        with saved_tensors_hooks(pack, unpack):
            yield
        self._end_leaving(forward, 0)

    def wait(self) -> None:
        """Wait for all copies: nothing that they read or write may be freed before."""
        self._stream.synchronize()

    def _pack(self, forward: _Pass, tensor: torch.Tensor) -> _Saved:
        values = tensor.detach()
        host = torch.empty_like(values, device="cpu", pin_memory=True)  # with its strides, on which rounding depends
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            host.copy_(values, non_blocking=True)
            copied = self._stream.record_event()
        self._end_leaving(forward, 1)
        forward.leaving.append((copied, values))
        forward.saved.append(_Saved(host, copied))
        return forward.saved[-1]

    def _end_leaving(self, forward: _Pass, n_kept: int) -> None:
        """The memory of all but the last ``n_kept`` may be used again."""
        while len(forward.leaving) > n_kept:
            copied, _ = forward.leaving.pop(0)
            torch.cuda.current_stream(self.device).wait_event(copied)

    def _unpack(self, forward: _Pass, saved: _Saved) -> torch.Tensor:
        computing = torch.cuda.current_stream(self.device)
        while saved in forward.saved and forward.saved[-1] is not saved:
            later = forward.saved.pop()
            computing.wait_event(later.copied)  # it may never have been used
            later.on_device = None
        self._fetch(saved)
        computing.wait_event(saved.copied)
        for each in forward.saved[-1 - AHEAD : -1]:
            self._fetch(each)
        values = saved.on_device
        assert values is not None
        return values

    def _fetch(self, saved: _Saved) -> None:
        if saved.on_device is not None:
            return
        saved.on_device = torch.empty_like(saved.host, device=self.device)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            saved.on_device.copy_(saved.host, non_blocking=True)
            saved.copied = self._stream.record_event()


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
