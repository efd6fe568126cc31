"""An adapter of an original tensor as adapters of the module tensors that it consists of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dreambooth.checkpoints.adapters.kinds import Adapter, Difference, Lora
from dreambooth.models.transforms import Chunk, Concat, Shape, Transform


def split_adapter(adapter: Adapter, transform: Transform, shapes: Sequence[Shape]) -> list[Adapter] | None:
    """The adapters of module tensors of ``shapes``; None when it does not fit them, or can't be split.

    A LoRA of stacked rows stays a LoRA with parts of ``lora_up``. Other kinds become their deltas. What depends on the
    values of the weight (DoRA, IA3) can't be split.
    """
    shape = transform.original_shape(shapes)
    if adapter.needs_weight or not adapter.fits(shape):
        return None
    up = adapter.tensors.get("lora_up.weight")
    if isinstance(adapter, Lora) and up is not None and isinstance(transform, (Chunk, Concat)):
        parts = up.split([part[0] for part in shapes])
        return [Lora({**adapter.tensors, "lora_up.weight": part}, adapter.alpha, adapter.scale) for part in parts]
    delta = adapter.delta(torch.zeros(shape))
    return [Difference({"diff": part.contiguous()}) for part in transform.split(delta, shapes)]
