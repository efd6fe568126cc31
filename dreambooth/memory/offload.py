"""Block offload: weights of repeated blocks in main memory, each on the GPU only while it computes.

A block is copied to the GPU by a stream of its own while the block before it computes, in the forward pass, in the
recomputation of gradient checkpointing, and in the backward pass. In full training with a fused backward pass the
block's optimizer state travels with it, and both are copied back after the update.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from dreambooth.memory.pinned import PinnedMemory

MIN_BYTES = 1 << 14  # smaller tensors, such as biases and norms, stay on the device


@dataclass(eq=False)
class _Block:
    """``tensors``: what moves. ``hosts``: those on the device now, with their place in main memory."""

    module: nn.Module
    tensors: list[torch.Tensor]
    hosts: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    copied: Any = None  # event at the end of the copy to the device
    is_changed: bool = False  # whether an update may have changed it since


class BlockOffload:
    """Keeps ``fraction`` of the bytes of a module's repeated blocks in main memory, and the rest on ``device``.

    Weights that are trained need a fused backward pass, and ``optimizer``, whose state moves with them;
    ``finish_updates`` is called before a block leaves the device, to take the updates of its gradients.

    Between two uses, ``tensor.data`` of a weight is its place in main memory: what reads it sees the current values
    after :meth:`synchronize`. Blocks that the forward pass does not checkpoint stay on the device, since the backward
    pass reads their weights without calling them again.
    """

    def __init__(self, module: nn.Module, fraction: float, device: torch.device) -> None:
        self.device, self.memory = device, PinnedMemory()
        self.optimizer: torch.optim.Optimizer | None = None
        self.finish_updates: Callable[[], None] = lambda: None
        self._stream = torch.cuda.Stream(device)
        self._resident: list[_Block] = []
        self._leaving: tuple[Any, list[torch.Tensor]] | None = (
            None  # copies to main memory: their end, and what is read
        )
        self._next: dict[tuple[_Block, bool], tuple[_Block, bool]] = {}  # uses in their order: block, in backward pass?
        self._last: tuple[_Block, bool] | None = None
        blocks = [_Block(part, _movable(part)) for part in spread(repeated_blocks(module), fraction)]
        self.blocks = [block for block in blocks if block.tensors]
        self._place(module)
        for block in self.blocks:
            block.module.register_forward_pre_hook(_Hook(self, block))

    @property
    def moves_trained_weights(self) -> bool:
        return any(tensor.requires_grad for block in self.blocks for tensor in block.tensors)

    def synchronize(self) -> None:
        """Move all blocks to main memory and wait until their values are there."""
        self.release()
        self.wait()

    def wait(self) -> None:
        """Wait for all copies: nothing that they read or write may be freed before."""
        self._stream.synchronize()

    def release(self) -> None:
        """Move all blocks to main memory. The copies may still be going on afterwards."""
        self.finish_updates()
        for block in list(self._resident):
            self._release(block)
        self._end_leaving()
        self._last = None

    # -- one use of a block -----------------------------------------------------------------------------------

    def use(self, block: _Block) -> None:
        """The block is about to compute: bring it, let the previous one go, and begin to copy the next one."""
        in_backward = torch._C._current_graph_task_id() != -1
        if not in_backward and torch.is_grad_enabled() and not _is_checkpointed():
            self._keep(block)
            return
        this = block, in_backward
        if self._last:
            self._next[self._last] = this
        self._last = this
        following = self._next.get(this)
        self._end_leaving()
        self._release_except({block, *(following or ())[:1]})
        self._load(block, in_backward)
        torch.cuda.current_stream(self.device).wait_event(block.copied)
        block.is_changed = block.is_changed or (in_backward and any(t.requires_grad for t in block.tensors))
        if following:
            self._load(*following)

    def _release_except(self, used: set[_Block]) -> None:
        leaving = [block for block in self._resident if block not in used]
        if any(block.is_changed for block in leaving):
            self.finish_updates()
        for block in leaving:
            self._release(block)

    def _load(self, block: _Block, in_backward: bool) -> None:
        """Begin to copy what of a block is not on the device; the backward pass needs the optimizer's state too."""
        absent = [t for t in self._tensors(block, with_state=in_backward) if not t.is_cuda]
        if not absent:
            return
        hosts = [tensor.data for tensor in absent]
        copies = [torch.empty_like(host, device=self.device) for host in hosts]
        # Their memory was freed in the order of the computing stream, which may be using it until now.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for copy, host in zip(copies, hosts, strict=True):
                copy.copy_(host, non_blocking=True)
            block.copied = self._stream.record_event()
        for tensor, copy, host in zip(absent, copies, hosts, strict=True):
            tensor.data = copy
            block.hosts.append((tensor, host))
        if block not in self._resident:
            self._resident.append(block)

    def _release(self, block: _Block) -> None:
        self._resident.remove(block)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(block.copied)  # it may never have been used
        hosts, block.hosts = block.hosts, []
        if block.is_changed:
            known = {id(tensor) for tensor, _ in hosts}
            created = [t for t in self._tensors(block, with_state=True) if t.is_cuda and id(t) not in known]
            hosts += [(tensor, self.memory.like(tensor)) for tensor in created]
            block.is_changed = False
            self._copy_back(hosts, computing)
        for tensor, host in hosts:
            tensor.data = host

    def _copy_back(self, hosts: Sequence[tuple[torch.Tensor, torch.Tensor]], computing: Any) -> None:
        """Begin to copy values to main memory. They stay on the device until that has ended."""
        values = [tensor.data for tensor, _ in hosts]
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            for value, (_, host) in zip(values, hosts, strict=True):
                host.copy_(value, non_blocking=True)
            copied = self._stream.record_event()
        earlier = self._leaving[1] if self._leaving else []
        self._leaving = copied, [*earlier, *values]

    def _end_leaving(self) -> None:
        if self._leaving:
            torch.cuda.current_stream(self.device).wait_event(self._leaving[0])  # before their memory is used again
            self._leaving = None

    # -- what moves -------------------------------------------------------------------------------------------

    def _tensors(self, block: _Block, with_state: bool) -> list[torch.Tensor]:
        """A block's weights, and its optimizer states of some size, unless the optimizer pages them itself."""
        of_optimizer = self.optimizer.state if self.optimizer and with_state else {}
        states = [of_optimizer.get(tensor, {}) for tensor in block.tensors]
        values = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        moved = [value for value in values if value.nbytes >= MIN_BYTES and not getattr(value, "is_paged", False)]
        return [*block.tensors, *moved]

    def _keep(self, block: _Block) -> None:
        """Leave a block on the device from now on."""
        if block in self.blocks:
            self._load(block, in_backward=True)
            torch.cuda.current_stream(self.device).wait_event(block.copied)
            if block in self._resident:  # not if all of it was there already
                self._resident.remove(block)
            self.blocks.remove(block)

    def _place(self, module: nn.Module) -> None:
        """Weights of the blocks in main memory, all others on the device."""
        moved = set[int]()
        for block in self.blocks:
            for tensor in block.tensors:
                moved.add(id(tensor))
                host = self.memory.like(tensor)
                tensor.data = host.copy_(tensor.data)
        for tensor in _tensors_of(module):
            if id(tensor) not in moved and tensor.device.type != self.device.type:
                tensor.data = tensor.data.to(self.device)


class _Hook:
    """Before the forward pass of a block."""

    def __init__(self, offload: BlockOffload, block: _Block) -> None:
        self._offload, self._block = offload, block

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if self._block in self._offload.blocks:
            self._offload.use(self._block)


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """Transformer and residual blocks: the innermost members of module lists that have several weight layers."""
    members = [m for parts in module.modules() if isinstance(parts, nn.ModuleList) for m in parts if _n_layers(m) > 1]
    candidates = set(members)
    return [member for member in members if not any(m in candidates for m in member.modules() if m is not member)]


def spread(blocks: Sequence[nn.Module], fraction: float) -> list[nn.Module]:
    """The blocks that have ``fraction`` of the bytes, spread evenly, so that copies and computing alternate."""
    chosen, n_chosen, n_all = [], 0, 0
    for block in blocks:
        n_bytes = sum(tensor.nbytes for tensor in _movable(block))
        n_all += n_bytes
        if n_chosen + n_bytes <= fraction * n_all:
            chosen.append(block)
            n_chosen += n_bytes
    return chosen


def _n_layers(module: nn.Module) -> int:
    return sum(isinstance(part, nn.Linear | nn.Conv2d) for part in module.modules())


def _movable(block: nn.Module) -> list[torch.Tensor]:
    """The weights of its layers, not those of adapters in them, which are trained by an optimizer of all at once."""
    layers = [part for part in block.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    return [tensor for layer in layers for tensor in _own_tensors(layer) if tensor.nbytes >= MIN_BYTES]


def _tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    for part in module.modules():
        yield from _own_tensors(part)


def _own_tensors(module: nn.Module) -> list[torch.Tensor]:
    values = [*module._parameters.values(), *module._buffers.values()]
    return [value for value in values if value is not None]


def _is_checkpointed() -> bool:
    """Whether torch's gradient checkpointing calls the forward pass that is running."""
    frame = sys._getframe(1)
    while frame:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False
