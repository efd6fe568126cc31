"""Formats of quantized weights: int8 and fp8 with a scale per output channel, nf4 with a scale per 64 values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dreambooth.errors import first_sentence
from dreambooth.settings.training import BASE_PRECISIONS

Tensors = Mapping[str, torch.Tensor]

# NormalFloat (arXiv:2305.14314, appendix E): 16 quantiles of the normal distribution, with a zero.
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_NF4_BLOCK = 64  # values that share a scale


@dataclass(frozen=True)
class Format:
    """A way to store weights (out, in[, k, k]).

    ``quantize`` takes float32; ``dequantize`` takes its results, and the shape and dtype of the weight that it returns.
    """

    quantize: Callable[[torch.Tensor], Tensors]
    dequantize: Callable[[Tensors, torch.Size, torch.dtype], torch.Tensor]


def _channel_scale(weight: torch.Tensor, largest: float) -> torch.Tensor:
    """(out, 1[, 1, 1]): maps the largest magnitude of each output channel to ``largest``; 1 for channels of zeros."""
    maximum = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
    return torch.where(maximum > 0, maximum / largest, torch.ones_like(maximum))


def _to_int8(weight: torch.Tensor) -> Tensors:
    """Symmetric. The error of each value is at most half a step: the channel's largest magnitude / 127 / 2."""
    scale = _channel_scale(weight, 127)
    return {"values": (weight / scale).round_().clamp_(-127, 127).to(torch.int8), "scale": scale}


def _from_int8(tensors: Tensors, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """One kernel: it multiplies in float32 and rounds once, to ``dtype``."""
    values = tensors["values"]
    return torch.mul(values, tensors["scale"], out=torch.empty_like(values, dtype=dtype))


def _to_fp8(weight: torch.Tensor) -> Tensors:
    """3 bits of mantissa: the relative error is at most 2^-4, of subnormal numbers 2^-10 of the scale."""
    scale = _channel_scale(weight, 448)  # the largest number; conversion of larger ones may give NaN
    return {"values": (weight / scale).clamp_(-448, 448).to(torch.float8_e4m3fn), "scale": scale}


def _from_fp8(tensors: Tensors, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """The conversion is exact, the product is rounded once."""
    return tensors["values"].to(dtype).mul_(tensors["scale"])


def _to_nf4(weight: torch.Tensor) -> Tensors:
    """Blocks of 64 values, each divided by its largest magnitude and rounded to the nearest of 16 levels.

    ``values`` (n / 2,): two in a byte, the first in the upper half. ``pairs`` (256, 2): the levels of each byte, among
    the tensors because a table made when it is needed would be copied to the device each time.
    """
    flat = weight.flatten()
    blocks = F.pad(flat, (0, -flat.numel() % _NF4_BLOCK)).view(-1, _NF4_BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    levels = torch.tensor(_NF4, device=weight.device)
    nearest = torch.bucketize(blocks / scale.clamp(min=1e-38), (levels[1:] + levels[:-1]) / 2, out_int32=True)
    upper, lower = nearest.to(torch.uint8).view(-1, 2).unbind(dim=1)
    return {"values": upper * 16 + lower, "scale": scale, "pairs": torch.cartesian_prod(levels, levels)}


def _from_nf4(tensors: Tensors, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    pairs = F.embedding(tensors["values"].int(), tensors["pairs"].to(dtype))
    return pairs.view(-1, _NF4_BLOCK).mul_(tensors["scale"]).flatten()[: shape.numel()].view(shape)


FORMATS: Mapping[str, Format] = {
    "int8": Format(_to_int8, _from_int8),
    "fp8": Format(_to_fp8, _from_fp8),
    "nf4": Format(_to_nf4, _from_nf4),
}
assert ("full", *FORMATS) == BASE_PRECISIONS


def missing_requirements(device: torch.device) -> dict[str, str]:
    """Formats that can't be used on this machine, and what each of them needs. Cheap: nothing is tried."""
    if device.type == "mps":
        return {"fp8": "an NVIDIA, AMD or Intel GPU"}
    return {} if hasattr(torch, "float8_e4m3fn") else {"fp8": "torch 2.1 or newer"}


def unavailable_reason(kind: str, device: torch.device) -> str:
    """Why weights can't be stored in this format on ``device``, as a sentence; empty if they can. It is tried."""
    if needed := missing_requirements(device).get(kind):
        return f"it needs {needed}."
    try:
        weight = torch.ones(2, 2, device=device)
        FORMATS[kind].dequantize(FORMATS[kind].quantize(weight), weight.shape, torch.float16)
    except Exception as error:
        return f"it does not work with this torch and {device.type} ({first_sentence(error)})."
    return ""
