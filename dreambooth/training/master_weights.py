"""LoRA in low precision with master weights: the adapters' parameters stay in float32, the passes use copies.

Autocast would cast each factor again in each pass, which takes more launches than the adapters themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch

from dreambooth.training.adapters import AdapterLayer, LoraLayer
from dreambooth.training.chunks import views

Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]  # parameters, and their copies


@contextlib.contextmanager
def low_precision(layers: Iterable[AdapterLayer], dtype: torch.dtype) -> Iterator[Pairs]:
    """In the block, layers of plain LoRA use copies of their parameters in ``dtype``, as far as these are trained.

    Yields the copies, for :func:`collect_gradients`. Other kinds of adapters compute the update of a whole weight, in
    float32.
    """
    trained = [layer for layer in layers if isinstance(layer, LoraLayer) and not layer.dora and layer.up.requires_grad]
    masters = [factor for layer in trained for factor in (layer.down, layer.up)]
    copies = _leaves(masters, dtype)
    try:
        for layer, down, up in zip(trained, copies[::2], copies[1::2], strict=True):
            layer.__dict__["low_precision"] = down, up  # nn.Module would compare each with its parameters
        yield list(zip(masters, copies, strict=True))
    finally:
        for layer in trained:
            layer.__dict__.pop("low_precision", None)


@torch.no_grad()
def collect_gradients(pairs: Pairs) -> None:
    """Move gradients of the copies to the parameters, where those of several backward passes are summed, in float32."""
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
