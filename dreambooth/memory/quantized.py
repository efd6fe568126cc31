"""Frozen weights in 8 bits: int8 or fp8 (float8_e4m3fn), with one float32 scale per output channel.

A quantized layer is a Linear or Conv2d that stores quantized values and a scale in place of its weight. The weight is
dequantized in the forward pass and again in the backward pass, one layer at a time, and never saved for the latter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input

from dreambooth.settings.training import BASE_PRECISIONS

QuantizedTensors = tuple[torch.Tensor, torch.Tensor]  # values and scale


@dataclass(frozen=True)
class Format:
    """A way to store weights (out, in[, k, k]).

    ``quantize`` takes float32; ``dequantize`` takes its results, and the dtype of the weight that it returns.
    """

    quantize: Callable[[torch.Tensor], QuantizedTensors]
    dequantize: Callable[[torch.Tensor, torch.Tensor, torch.dtype], torch.Tensor]


def _channel_scale(weight: torch.Tensor, largest: float) -> torch.Tensor:
    """(out, 1[, 1, 1]): maps the largest magnitude of each output channel to ``largest``; 1 for channels of zeros."""
    maximum = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
    return torch.where(maximum > 0, maximum / largest, torch.ones_like(maximum))


def _to_int8(weight: torch.Tensor) -> QuantizedTensors:
    """Symmetric. The error of each value is at most half a step: the channel's largest magnitude / 127 / 2."""
    scale = _channel_scale(weight, 127)
    return (weight / scale).round_().clamp_(-127, 127).to(torch.int8), scale


def _from_int8(values: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """One kernel: it multiplies in float32 and rounds once, to ``dtype``."""
    return torch.mul(values, scale, out=torch.empty_like(values, dtype=dtype))


def _to_fp8(weight: torch.Tensor) -> QuantizedTensors:
    """3 bits of mantissa: the relative error is at most 2^-4, of subnormal numbers 2^-10 of the scale."""
    scale = _channel_scale(weight, 448)  # the largest number; conversion of larger ones may give NaN
    return (weight / scale).clamp_(-448, 448).to(torch.float8_e4m3fn), scale


def _from_fp8(values: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The conversion is exact, the product is rounded once."""
    return values.to(dtype).mul_(scale)


FORMATS: Mapping[str, Format] = {"int8": Format(_to_int8, _from_int8), "fp8": Format(_to_fp8, _from_fp8)}
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
        values, scale = FORMATS[kind].quantize(torch.ones(2, 2, device=device))
        FORMATS[kind].dequantize(values, scale, torch.float16)
    except Exception as error:
        message = str(error).strip() or type(error).__name__
        return f"it does not work with this torch and {device.type} ({message.splitlines()[0]})."
    return ""


class _Dequantized(torch.autograd.Function):
    """A layer's output, with a gradient for its input alone. Nothing is saved: ``backward`` dequantizes again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantizedLinear | QuantizedConv2d) -> torch.Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return layer.output(x, layer.weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.layer.input_gradient(ctx.shape, ctx.layer.weight, grads[0]), None


class _QuantizedLayer(nn.Module):
    """What both kinds of layers have in common. ``quantize_layer`` makes them, by changing a layer's class."""

    format: Format
    dtype: torch.dtype  # of the dequantized weight
    quantized_weight: torch.Tensor
    scale: torch.Tensor

    def store(self, weight: torch.Tensor, kind: str, dtype: torch.dtype) -> None:
        """Quantize ``weight`` in place of the layer's parameter."""
        self.format, self.dtype = FORMATS[kind], dtype
        values, scale = self.format.quantize(weight.float())
        del self._parameters["weight"]
        self.register_buffer("quantized_weight", values)
        self.register_buffer("scale", scale)

    @property
    def weight(self) -> torch.Tensor:
        """Dequantized anew each time it is read."""
        return self.format.dequantize(self.quantized_weight, self.scale, self.dtype)

    def forward(self, x: torch.Tensor, *args: object) -> torch.Tensor:
        return _Dequantized.apply(x.to(self.dtype), self)


class QuantizedLinear(_QuantizedLayer, nn.Linear):
    """A frozen nn.Linear with a quantized weight."""

    def output(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight, self.bias)

    def input_gradient(self, shape: torch.Size, weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        return grad @ weight


class QuantizedConv2d(_QuantizedLayer, nn.Conv2d):
    """A frozen nn.Conv2d with a quantized weight."""

    def output(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def input_gradient(self, shape: torch.Size, weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        arguments: Any = (self.stride, self.padding, self.dilation, self.groups)
        return conv2d_input(shape, weight, grad, *arguments)


def quantize_layer(layer: nn.Linear | nn.Conv2d, weight: torch.Tensor, kind: str, dtype: torch.dtype) -> None:
    """Change ``layer`` in place into a quantized one with this ``weight``, which is dequantized to ``dtype``.

    Its class changes to a subclass, as in torch.nn.utils.parametrize, so that whatever refers to it stays valid.
    """
    quantized: Any = layer
    quantized.__class__ = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedConv2d
    quantized.store(weight, kind, dtype)


def is_quantizable(module: nn.Module, name: str) -> bool:
    """Whether the parameter ``name`` of a component's ``module`` is quantized.

    These are the weights of linear layers and convolutions in the repeated blocks. All others stay in compute
    precision: few bytes are in them, and errors in embeddings, norms, the first and last layers and the embedding of
    time reach every block.
    """
    path, _, leaf = name.rpartition(".")
    layer = module.get_submodule(path)
    if leaf != "weight" or not isinstance(layer, nn.Linear | nn.Conv2d):
        return False
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return False
    parents = itertools.accumulate(path.split("."), "{}.{}".format)
    return any(isinstance(module.get_submodule(parent), nn.ModuleList) for parent in parents)


@dataclass(frozen=True)
class Quantizer:
    """Quantizes a component while it is loaded, weight by weight, on the device where it is used.

    For :meth:`dreambooth.models.components.Component.load_parameters`. ``dtype``: of dequantized weights.
    """

    kind: str  # one of FORMATS
    dtype: torch.dtype
    device: torch.device

    def __call__(self, module: nn.Module, name: str, weight: torch.Tensor) -> bool:
        """Take the parameter ``name`` of ``module``, if it is quantized; returns whether it was."""
        if not is_quantizable(module, name):
            return False
        layer: Any = module.get_submodule(name.rpartition(".")[0])
        quantize_layer(layer, weight.to(self.device), self.kind, self.dtype)
        return True
