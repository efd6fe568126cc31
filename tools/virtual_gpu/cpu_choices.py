"""Functions that choose a kernel or a memory layout by the device before anything is dispatched.

On the pretend GPU they choose as for the CPU, whose kernels compute, so that results are bit for bit those of the CPU.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch._prims_common import suggest_memory_format
from torch.nn.attention import SDPBackend

from tools.virtual_gpu.pretend_tensor import PretendTensor

aten = torch.ops.aten
_attention, _group_norm = F.scaled_dot_product_attention, F.group_norm


@contextlib.contextmanager
def cpu_choices() -> Iterator[None]:
    """In the block, attention and group normalization of the pretend GPU are those of the CPU."""
    with mock.patch.multiple(F, scaled_dot_product_attention=_cpu_attention, group_norm=_cpu_group_norm):
        yield


def _cpu_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    options: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    if not isinstance(query, PretendTensor):
        return _attention(query, key, value, attn_mask=attn_mask, enable_gqa=enable_gqa, **options)
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    values = [x.cpu_tensor if isinstance(x, PretendTensor) else x for x in (query, key, value, attn_mask)]
    choice = torch._fused_sdp_choice(*values, enable_gqa=enable_gqa, **options)  # pyright: ignore[reportArgumentType]
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # as torch does
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
    if choice == SDPBackend.FLASH_ATTENTION.value:
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=attn_mask, **options)[0]
    more = {"attn_mask": attn_mask, "enable_gqa": enable_gqa}
    return aten._scaled_dot_product_attention_math(query, key, value, **options, **more)[0]


def _cpu_group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not isinstance(input, PretendTensor):
        return _group_norm(input, num_groups, weight, bias, eps)
    if torch.is_autocast_enabled("cuda"):
        input, weight, bias = (
            input.float(),
            None if weight is None else weight.float(),
            None if bias is None else bias.float(),
        )
    x = input.contiguous(memory_format=suggest_memory_format(input))
    n, channels, pixels = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    return aten.native_group_norm(x, weight, bias, n, channels, pixels, num_groups, eps)[0]
