"""LoRA in low precision with master weights: the adapters' parameters stay in float32, the passes use copies.

Autocast would cast each factor again in each pass, which takes more launches than the adapters themselves. With
gradient checkpointing, copies of one stage of the model are there at a time, in the forward and in the backward pass.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dreambooth.training.adapters import AdapterLayer, LoraLayer
from dreambooth.training.chunks import views
from dreambooth.training.gradient_checkpointing import BEFORE, checkpointed_stages

_Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]  # parameters, and their copies


@dataclass(frozen=True, eq=False)
class Group:
    """A stage: blocks that are checkpointed one by one, and the layers in them."""

    blocks: Sequence[nn.Module]
    layers: Sequence[LoraLayer]


def groups_of(modules: Iterable[nn.Module]) -> list[Group]:
    """The groups of these modules that have layers of plain LoRA. To be called once: it takes milliseconds."""
    stages = [blocks for module in modules for blocks in checkpointed_stages(module)]
    groups = [
        Group(blocks, [part for block in blocks for part in block.modules() if isinstance(part, LoraLayer)])
        for blocks in stages
    ]
    return [group for group in groups if group.layers]


class AdapterCopies:
    """Copies of the parameters of plain LoRA in ``dtype``, as far as these are trained."""

    def __init__(self, layers: Iterable[AdapterLayer], dtype: torch.dtype, groups: Sequence[Group]) -> None:
        self._dtype, self._groups = dtype, groups
        self._layers = [layer for layer in layers if isinstance(layer, LoraLayer) and _has_copies(layer)]
        self._group: Group | None = None  # whose copies are there
        self._of_group: _Pairs = ()
        in_groups = {id(layer) for group in groups for layer in group.layers}
        self._pairs = self._make([layer for layer in self._layers if id(layer) not in in_groups])
        for group in groups:
            for layer in filter(_has_copies, group.layers):
                layer.__dict__["cast_to"] = dtype  # nn.Module would compare each with its parameters
            for block in group.blocks:
                block.__dict__[BEFORE] = functools.partial(self._enter, group)

    def collect_gradients(self) -> None:
        """Move gradients of the copies to the parameters, where those of several backward passes are summed."""
        _collect(self._pairs)
        _collect(self._of_group)

    def close(self) -> None:
        for layer in self._layers:
            layer.__dict__.pop("low_precision", None)
            layer.__dict__.pop("cast_to", None)
        for group in self._groups:
            for block in group.blocks:
                block.__dict__.pop(BEFORE, None)

    def _enter(self, group: Group) -> None:
        """One of the blocks is about to compute; in the backward pass, those of other groups are done."""
        if group is self._group:
            return
        _collect(self._of_group)
        for layer in self._group.layers if self._group else ():
            layer.__dict__.pop("low_precision", None)
        self._group, self._of_group = group, ()
        self._of_group = self._make([layer for layer in group.layers if _has_copies(layer)])

    def _make(self, layers: Sequence[LoraLayer]) -> _Pairs:
        """Copies that the layers use from now on."""
        masters = [factor for layer in layers for factor in (layer.down, layer.up)]
        copies = _leaves(masters, self._dtype)
        for layer, down, up in zip(layers, copies[::2], copies[1::2], strict=True):
            layer.__dict__["low_precision"] = down, up
        return list(zip(masters, copies, strict=True))


@contextlib.contextmanager
def low_precision(
    layers: Iterable[AdapterLayer], dtype: torch.dtype, groups: Sequence[Group] = ()
) -> Iterator[AdapterCopies]:
    """In the block, layers of plain LoRA use copies of their parameters in ``dtype``, as far as these are trained.

    Copies of ``groups`` are made when the first of their blocks is computed, and dropped when another group is. Other
    kinds of adapters compute the update of a whole weight, in float32.
    """
    copies = AdapterCopies(layers, dtype, groups)
    try:
        yield copies
    finally:
        copies.close()


def _has_copies(layer: LoraLayer) -> bool:
    return not layer.dora and layer.up.requires_grad


@torch.no_grad()
def _collect(pairs: _Pairs) -> None:
    """Move gradients of the copies to the parameters, in float32."""
    parameters, copies = [], []
    for parameter, copy in pairs:
        if copy.grad is not None:
            parameters.append(parameter)
            copies.append(copy)
    if not copies:
        return
    gradients = _cast([copy.grad for copy in copies if copy.grad is not None], torch.float32)
    sums = [p.grad for p in parameters if p.grad is not None]
    if len(sums) == len(parameters):
        torch._foreach_add_(sums, gradients)
    for parameter, copy, gradient in zip(parameters, copies, gradients, strict=True):
        copy.grad = None
        if parameter.grad is None:
            parameter.grad = gradient
        elif len(sums) < len(parameters):
            parameter.grad += gradient


@torch.no_grad()
def _leaves(parameters: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    return [copy.requires_grad_() for copy in _cast(parameters, dtype)] if parameters else []


def _cast(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Copies in ``dtype``: views of one tensor, which are filled at once."""
    n = sum(tensor.numel() for tensor in tensors)
    copies = views(torch.empty(n, dtype=dtype, device=tensors[0].device), tensors)
    torch._foreach_copy_(copies, list(tensors))
    return copies
