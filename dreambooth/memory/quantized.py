"""Layers with a frozen, quantized weight, in one of the formats of :mod:`dreambooth.memory.weight_formats`.

A quantized layer is a Linear or Conv2d that stores quantized values and scales in place of its weight. The weight is
dequantized in the forward pass and again in the backward pass, one layer at a time, and never saved for the latter.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv2d_input

from dreambooth.memory.weight_formats import FORMATS, Format


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
    shape: torch.Size  # of the weight
    dtype: torch.dtype  # of the dequantized weight

    def store(self, weight: torch.Tensor, kind: str, dtype: torch.dtype) -> None:
        """Quantize ``weight`` in place of the layer's parameter."""
        self.format, self.shape, self.dtype = FORMATS[kind], weight.shape, dtype
        del self._parameters["weight"]
        for name, tensor in self.format.quantize(weight.float()).items():
            self.register_buffer(name, tensor)

    @property
    def weight(self) -> torch.Tensor:
        """Dequantized anew each time it is read."""
        tensors: Any = self._buffers  # all are there
        return self.format.dequantize(tensors, self.shape, self.dtype)

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

    For :meth:`dreambooth.models.components.Component.load_parameters`. ``dtype``: of dequantized weights; ``offloads``:
    whether quantized weights are moved to main memory at once.
    """

    kind: str  # one of FORMATS
    dtype: torch.dtype
    device: torch.device
    offloads: bool = False

    def __call__(self, module: nn.Module, name: str, weight: torch.Tensor) -> bool:
        """Take the parameter ``name`` of ``module``, if it is quantized; returns whether it was."""
        if not is_quantizable(module, name):
            return False
        layer: Any = module.get_submodule(name.rpartition(".")[0])
        quantize_layer(layer, weight.to(self.device), self.kind, self.dtype)
        if self.offloads:
            for buffer, tensor in layer.named_buffers(recurse=False):  # the bias may not be loaded yet
                setattr(layer, buffer, tensor.to("cpu"))
        return True
