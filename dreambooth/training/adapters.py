"""Adapters that learn beside frozen layers: LoRA with LoCon's convolutions, LoHa, LoKr, each as DoRA if wanted.

What a layer adds is computed by the very code that reads and merges files (:mod:`dreambooth.checkpoints.adapters`).
Plain LoRA alone takes a shorter way: two thin products, and the change of the weight is never built.

Dropout leaves out values between LoRA's two factors, as kohya's trainer does; where the change is one matrix (LoHa,
LoKr, DoRA) there is no such place, and it leaves out values of what the change is applied to.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from dreambooth.checkpoints.adapters import Adapter, LoHa, LoKr, Lora, factorization, vector_norms
from dreambooth.checkpoints.layout import Layout
from dreambooth.checkpoints.lora import lora_name, target_modules
from dreambooth.settings import Settings
from dreambooth.training.dropout import AdapterDropout
from dreambooth.training.noise import generator_for

Base = torch.nn.Linear | torch.nn.Conv2d


@dataclass(frozen=True)
class AdapterConfig:
    """What kind of adapters a component gets, and of what size. ``conv_rank`` 0: none beside k x k convolutions."""

    kind: str
    rank: int
    alpha: float
    conv_rank: int = 0
    conv_alpha: float = 0.0
    dora: bool = False
    factor: int = 0  # LoKr's, see :func:`dreambooth.checkpoints.adapters.factorization`
    dropout: float = 0.0

    def sizes(self, base: Base) -> tuple[int, float]:
        """Rank and alpha beside ``base``; an alpha of 0 stands for the rank."""
        is_wide = any(side > 1 for side in base.weight.shape[2:])
        rank, alpha = (self.conv_rank, self.conv_alpha) if is_wide else (self.rank, self.alpha)
        return rank, alpha or rank


class AdapterLayer(torch.nn.Module):
    """A frozen Linear or Conv2d and its adapter. At first nothing changes: one of the factors starts at zero.

    ``tensor_names`` says which of its parameters is which part in a file.
    """

    kind: ClassVar[type[Adapter]]
    tensor_names: ClassVar[Mapping[str, str]]

    def __init__(self, base: Base, config: AdapterConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.rank, self.alpha = config.sizes(base)
        self.scale = self.alpha / self.rank
        # Where the convolution goes; None for a linear layer.
        self.conv_args: Any = (base.stride, base.padding, base.dilation) if isinstance(base, torch.nn.Conv2d) else None
        for name, values in self.initial_tensors(base.weight.shape, config, generator).items():
            self.register_parameter(name, torch.nn.Parameter(values.to(base.weight.device)))
        self.drop: Callable[[torch.Tensor], torch.Tensor] | None = None  # in training, see dropout.py
        self.dora = config.dora
        if config.dora:
            self.magnitude = torch.nn.Parameter(vector_norms(base.weight.detach().float(), 1))

    def initial_tensors(self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The parameters' first values, for a weight of ``shape``."""
        raise NotImplementedError

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Its own parameters, without the frozen layer's."""
        return dict(self.named_parameters(recurse=False))

    def adapter(self) -> Adapter:
        """The adapter as it is now; it shares the layer's parameters."""
        parts = {{**self.tensor_names, "magnitude": "dora_scale"}[name]: value for name, value in self.trainable_parameters().items()}
        return self.kind(parts, self.alpha)

    def forward(self, x: torch.Tensor, *args: object) -> torch.Tensor:
        # Beside the frozen layer, not in one product with it: a small change would be lost in half precision.
        # Checkpointed, so that of the change's making nothing as large as the weight is kept.
        change = checkpoint(self._change, use_reentrant=False, preserve_rng_state=False)
        seen = self.apply_dropout(x)
        if self.conv_args:
            return self.base(x) + F.conv2d(seen, change, None, *self.conv_args)
        return self.base(x) + F.linear(seen, change)

    def apply_dropout(self, x: torch.Tensor) -> torch.Tensor:
        """What dropout leaves of ``x``: all of it when something is drawn or measured."""
        return self.drop(x) if self.drop and self.training else x

    def _change(self) -> torch.Tensor:
        kind = self.base.weight.device.type
        in_float32 = torch.autocast(kind, enabled=False) if kind in ("cpu", "cuda") else contextlib.nullcontext()
        with in_float32:
            return self.adapter().delta(self.base.weight.float())

    # Some callers look at the layer that they think stands here.
    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias


class LoraLayer(AdapterLayer):
    """LoRA; beside a k x k convolution ``down`` is one and ``up`` is 1 x 1 (LoCon)."""

    kind = Lora
    tensor_names: ClassVar = {"down": "lora_down.weight", "up": "lora_up.weight"}
    down: torch.Tensor
    up: torch.Tensor

    def initial_tensors(self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
        down = torch.empty(self.rank, *shape[1:])
        up = torch.zeros(shape[0], self.rank, *[1] * len(shape[2:]))
        return {"down": _uniform(down, generator), "up": up}

    def forward(self, x: torch.Tensor, *args: object) -> torch.Tensor:
        if self.dora:
            return super().forward(x)
        if self.conv_args:
            thin = self.apply_dropout(F.conv2d(x, self.down, None, *self.conv_args))
            return self.base(x) + F.conv2d(thin, self.up) * self.scale
        return self.base(x) + F.linear(self.apply_dropout(F.linear(x, self.down)), self.up) * self.scale


class LoHaLayer(AdapterLayer):
    """LoHa, started as LyCORIS does."""

    kind = LoHa
    tensor_names: ClassVar = {name: f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b")}

    def initial_tensors(self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows, columns = shape[0], math.prod(shape[1:])
        return {
            "w1_a": torch.randn(rows, self.rank, generator=generator) * 0.1,
            "w1_b": torch.randn(self.rank, columns, generator=generator),
            "w2_a": torch.zeros(rows, self.rank),
            "w2_b": torch.randn(self.rank, columns, generator=generator),
        }


class LoKrLayer(AdapterLayer):
    """LoKr: ``w1`` whole, ``w2`` of low rank, or whole where a low rank would save little. Started as LyCORIS does."""

    kind = LoKr
    tensor_names: ClassVar = {name: f"lokr_{name}" for name in ("w1", "w2", "w2_a", "w2_b")}

    def initial_tensors(self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
        (rows_1, rows_2), (columns_1, columns_2) = (factorization(n, config.factor) for n in shape[:2])
        w1 = _uniform(torch.empty(rows_1, columns_1), generator)
        if self.rank >= max(rows_2, columns_2) / 2:
            return {"w1": w1, "w2": torch.zeros(rows_2, columns_2, *shape[2:])}
        w2_a = _uniform(torch.empty(rows_2, self.rank), generator)
        return {"w1": w1, "w2_a": w2_a, "w2_b": torch.zeros(self.rank, columns_2 * math.prod(shape[2:]))}


LAYERS: Mapping[str, type[AdapterLayer]] = {layer.kind.kind: layer for layer in (LoraLayer, LoHaLayer, LoKrLayer)}


def adapter_config(settings: Settings, component: str) -> AdapterConfig:
    """What the settings ask for beside a component's layers."""
    kind = settings.lora_type
    more = {"dora": settings.lora_dora, "factor": settings.lokr_factor}
    if component != "unet":
        more["dropout"] = settings.lora_txt_dropout
        return AdapterConfig(kind, settings.lora_txt_rank, settings.lora_txt_alpha, **more)
    more["dropout"] = settings.lora_unet_dropout
    conv_rank = settings.lora_conv_rank if settings.use_lora_extended else 0
    return AdapterConfig(
        kind, settings.lora_unet_rank, settings.lora_unet_alpha, conv_rank, settings.lora_conv_alpha, **more
    )


def inject(
    module: torch.nn.Module,
    component: str,
    config: AdapterConfig,
    layout: Layout,
    seed: int,
    dropout: AdapterDropout | None = None,
) -> dict[str, AdapterLayer]:
    """Put an adapter beside every layer that is adapted; returns them by their name in a file.

    Which layers these are says :func:`dreambooth.checkpoints.lora.target_modules`. ``dropout`` is for forms with some.
    """
    layers = {}
    for path, base in target_modules(module, component, convolutions=config.conv_rank > 0).items():
        name = lora_name(layout, component, path)
        layer = LAYERS[config.kind](base, config, generator_for(seed, "lora", name))
        if dropout and config.dropout:
            layer.drop = functools.partial(dropout.drop, share=config.dropout, layer=name)
        parent, _, attribute = path.rpartition(".")
        _replace(module.get_submodule(parent), attribute, layer)
        layers[name] = layer
    return layers


def collect_adapters(layers: Mapping[str, AdapterLayer]) -> dict[str, Adapter]:
    """The adapters as :func:`dreambooth.checkpoints.lora.write_lora` takes them."""
    return {name: layer.adapter() for name, layer in layers.items()}


def _uniform(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As torch initialises a Linear of this weight, and kohya's trainer its adapters."""
    bound = 1 / math.sqrt(tensor[0].numel())
    return tensor.uniform_(-bound, bound, generator=generator)


def _replace(parent: torch.nn.Module, attribute: str, layer: torch.nn.Module) -> None:
    if attribute.isdigit() and isinstance(parent, (torch.nn.ModuleList, torch.nn.Sequential)):
        parent[int(attribute)] = layer
    else:
        setattr(parent, attribute, layer)
