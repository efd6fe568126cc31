"""Blocks of diffusers divide their output by a factor, which is 1 in most models: the division is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

_FACTORS = ("output_scale_factor", "rescale_output_factor")  # attributes of ResnetBlock2D and Attention


class _One:
    """A divisor of tensors that returns them as they are. A number would take a launch, and another for gradients."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if func.__name__ in ("__truediv__", "div") else NotImplemented


ONE = _One()


def skip_unit_factors(module: nn.Module) -> None:
    """In all blocks of ``module`` whose factor is 1."""
    for part in module.modules():
        for name in _FACTORS:
            if vars(part).get(name) == 1:
                setattr(part, name, ONE)
