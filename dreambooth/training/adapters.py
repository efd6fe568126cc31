"""Trainable adapters of frozen layers: LoRA, LoCon (with convolutions), LoHa, LoKr, each optionally as DoRA.

The weight update of a layer is computed by the code that reads and merges adapter files
(:mod:`dreambooth.checkpoints.adapters`). Only plain LoRA is computed as two low-rank products, without the full update.

Dropout acts between LoRA's two factors, as in sd-scripts. Where the update is one matrix (LoHa, LoKr, DoRA), it acts on
the input of the update.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from dreambooth.autocast import without_autocast
from dreambooth.checkpoints.adapters import Adapter, LoHa, LoKr, Lora, factorization, vector_norms
from dreambooth.checkpoints.lora import lora_name
from dreambooth.checkpoints.modules import Modules
from dreambooth.models.adapter_layers import chosen_layers
from dreambooth.settings import Settings
from dreambooth.settings.components import TrainedRole, keys_of
from dreambooth.settings.lora_ranks import RankPattern, parse_ranks, pattern_of
from dreambooth.settings.training import DEFAULT_LAYERS
from dreambooth.training.dropout import AdapterDropout
from dreambooth.training.gradient_checkpointing import reentrant_checkpoint
from dreambooth.training.noise import generator_for

Base = torch.nn.Linear | torch.nn.Conv2d


@dataclass(frozen=True)
class AdapterConfig:
    """Type and size of a component's adapters. ``conv_rank`` 0: k x k convolutions have none.

    ``layers``: see :func:`dreambooth.models.adapter_layers.chosen_layers`. ``ranks``: of modules whose rank is another.
    """

    kind: str
    rank: int
    alpha: float
    conv_rank: int = 0
    conv_alpha: float = 0.0
    dora: bool = False
    factor: int = 0  # of LoKr, see :func:`dreambooth.checkpoints.adapters.factorization`
    dropout: float = 0.0
    layers: str = DEFAULT_LAYERS
    ranks: tuple[RankPattern, ...] = ()

    def sizes(self, shape: torch.Size) -> tuple[int, float]:
        """Rank and alpha for a weight of ``shape``. An alpha of 0 means alpha = rank."""
        is_wide = any(side > 1 for side in shape[2:])
        rank, alpha = (self.conv_rank, self.conv_alpha) if is_wide else (self.rank, self.alpha)
        return rank, alpha or rank

    def for_layer(self, component: str, path: str) -> AdapterConfig | None:
        """That of the module with this path on disk, with the same alpha / rank; None: it has no adapter."""
        pattern = pattern_of(self.ranks, component, path)
        if pattern is None:
            return self
        if pattern.rank == 0:
            return None
        sizes: dict[str, Any] = {"rank": pattern.rank, "alpha": self.alpha * pattern.rank / self.rank}
        if self.conv_rank:
            sizes |= {"conv_rank": pattern.rank, "conv_alpha": self.conv_alpha * pattern.rank / self.conv_rank}
        return dataclasses.replace(self, **sizes)


class AdapterLayer(torch.nn.Module):
    """A frozen Linear or Conv2d with an adapter. The initial update is zero, since one of its factors is.

    ``tensor_names``: names of the parameters in adapter files.
    """

    kind: ClassVar[type[Adapter]]
    tensor_names: ClassVar[Mapping[str, str]]

    def __init__(self, base: Base, config: AdapterConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        weight = base.weight  # read once: a quantized layer dequantizes it each time
        self.rank, self.alpha = config.sizes(weight.shape)
        self.scale = self.alpha / self.rank
        # Arguments of the convolution; None for a linear layer.
        self.conv_args: Any = (base.stride, base.padding, base.dilation) if isinstance(base, torch.nn.Conv2d) else None
        for name, values in self.initial_tensors(weight.shape, config, generator).items():
            self.register_parameter(name, torch.nn.Parameter(values.to(weight.device)))
        self.dropout: Callable[[torch.Tensor], torch.Tensor] | None = None  # see dropout.py
        self.dora = config.dora
        if config.dora:
            self.magnitude = torch.nn.Parameter(vector_norms(weight.detach().float(), 1))

    def initial_tensors(
        self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Initial values of the parameters, for a weight of ``shape``."""
        raise NotImplementedError

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters, without those of the frozen layer."""
        return dict(self.named_parameters(recurse=False))

    def adapter(self) -> Adapter:
        """The adapter with the current parameters, which are shared, not copied."""
        tensors = {
            {**self.tensor_names, "magnitude": "dora_scale"}[name]: value
            for name, value in self.trainable_parameters().items()
        }
        return self.kind(tensors, self.alpha)

    def forward(self, x: torch.Tensor, *args: object) -> torch.Tensor:
        # Not added to the frozen weight, where a small update would be lost in half precision.
        # Checkpointed, so that no intermediate as large as the weight is saved for the backward pass.
        update = reentrant_checkpoint(self._weight_update, x.dtype)
        dropped = self.apply_dropout(x)
        if self.conv_args:
            return self.base(x) + F.conv2d(dropped, update, None, *self.conv_args)
        return self.base(x) + F.linear(dropped, update)

    def apply_dropout(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` with dropout in training mode, otherwise ``x``."""
        return self.dropout(x) if self.dropout and self.training else x

    def _weight_update(self, dtype: torch.dtype) -> torch.Tensor:
        """Computed in float32."""
        weight = self.base.weight
        with without_autocast(weight.device):
            return self.adapter().delta(weight.float()).to(dtype)

    # diffusers reads these attributes of the layers that were replaced.
    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias


class LoraLayer(AdapterLayer):
    """LoRA. For a k x k convolution ``down`` is k x k and ``up`` is 1 x 1 (LoCon)."""

    kind = Lora
    tensor_names: ClassVar = {"down": "lora_down.weight", "up": "lora_up.weight"}
    down: torch.Tensor
    up: torch.Tensor
    # Copies of both, see master_weights.py; what they are cast to where these are not there.
    low_precision: tuple[torch.Tensor, torch.Tensor] | None = None
    cast_to: torch.dtype | None = None

    def initial_tensors(
        self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        down = torch.empty(self.rank, *shape[1:])
        up = torch.zeros(shape[0], self.rank, *[1] * len(shape[2:]))
        return {"down": _uniform(down, generator), "up": up}

    def forward(self, x: torch.Tensor, *args: object) -> torch.Tensor:
        if self.dora:
            return super().forward(x)
        if self.low_precision:
            return self._forward_in_low_precision(x, *self.low_precision)
        if self.cast_to:
            return self._forward_in_low_precision(x, self.down.to(self.cast_to), self.up.to(self.cast_to))
        # Gradients of x are summed in the order of these operations.
        if self.conv_args:
            hidden = self.apply_dropout(F.conv2d(x, self.down, None, *self.conv_args))
            return self.base(x) + self._scaled(F.conv2d(hidden, self.up))
        return self.base(x) + self._scaled(F.linear(self.apply_dropout(F.linear(x, self.down)), self.up))

    def _scaled(self, update: torch.Tensor) -> torch.Tensor:
        return update if self.scale == 1 else update * self.scale

    def _forward_in_low_precision(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """The update is added in the kernel that computes it, to the output of the frozen layer in place."""
        if self.conv_args:
            hidden = self.apply_dropout(F.conv2d(x, down, None, *self.conv_args))
            return self.base(x).add_(F.conv2d(hidden, up), alpha=self.scale)
        rows = x.reshape(-1, x.shape[-1])
        hidden = self.apply_dropout(F.linear(rows, down))
        return self.base(rows).addmm_(hidden, up.t(), alpha=self.scale).view(*x.shape[:-1], -1)


class LoHaLayer(AdapterLayer):
    """LoHa, initialized as in LyCORIS."""

    kind = LoHa
    tensor_names: ClassVar = {name: f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b")}

    def initial_tensors(
        self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        rows, columns = shape[0], math.prod(shape[1:])
        return {
            "w1_a": torch.randn(rows, self.rank, generator=generator) * 0.1,
            "w1_b": torch.randn(self.rank, columns, generator=generator),
            "w2_a": torch.zeros(rows, self.rank),
            "w2_b": torch.randn(self.rank, columns, generator=generator),
        }


class LoKrLayer(AdapterLayer):
    """LoKr, initialized as in LyCORIS: ``w1`` is a full matrix, ``w2`` low-rank unless a full one is hardly larger."""

    kind = LoKr
    tensor_names: ClassVar = {name: f"lokr_{name}" for name in ("w1", "w2", "w2_a", "w2_b")}

    def initial_tensors(
        self, shape: torch.Size, config: AdapterConfig, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        (rows_1, rows_2), (columns_1, columns_2) = (factorization(n, config.factor) for n in shape[:2])
        w1 = _uniform(torch.empty(rows_1, columns_1), generator)
        if self.rank >= max(rows_2, columns_2) / 2:
            return {"w1": w1, "w2": torch.zeros(rows_2, columns_2, *shape[2:])}
        w2_a = _uniform(torch.empty(rows_2, self.rank), generator)
        return {"w1": w1, "w2_a": w2_a, "w2_b": torch.zeros(self.rank, columns_2 * math.prod(shape[2:]))}


LAYERS: Mapping[str, type[AdapterLayer]] = {layer.kind.kind: layer for layer in (LoraLayer, LoHaLayer, LoKrLayer)}


def adapter_config(settings: Settings, role: TrainedRole) -> AdapterConfig:
    """The adapters that the settings ask for in the components with this role."""
    keys, is_denoiser = keys_of(role), role == "denoiser"
    has_convolutions = is_denoiser and settings.use_lora_extended
    return AdapterConfig(
        settings.lora_type,
        getattr(settings, keys.rank),
        getattr(settings, keys.alpha),
        conv_rank=settings.lora_conv_rank if has_convolutions else 0,
        conv_alpha=settings.lora_conv_alpha if is_denoiser else 0.0,
        dora=settings.lora_dora,
        factor=settings.lokr_factor,
        dropout=getattr(settings, keys.dropout),
        layers=settings.lora_layers,
        ranks=parse_ranks(settings.lora_ranks),
    )


def inject(
    modules: Modules, component: str, config: AdapterConfig, seed: int, dropout: AdapterDropout | None = None
) -> dict[str, AdapterLayer]:
    """Replace the chosen layers of a component with adapter layers; returns them by their names in adapter files.

    ``dropout`` is required if ``config.dropout`` is above 0.
    """
    layers, module = {}, modules.parts[component]
    targets = chosen_layers(modules.family, component, module, config.layers, convolutions=config.conv_rank > 0)
    for path, base in targets.items():
        own_config = config.for_layer(component, modules.layout.disk_name(component, path))
        if own_config is None:
            continue
        name = lora_name(modules.layout, component, path)
        layer = LAYERS[config.kind](base, own_config, generator_for(seed, "lora", name))
        if dropout and config.dropout:
            layer.dropout = functools.partial(dropout.apply, p=config.dropout, layer=name)
        parent, _, attribute = path.rpartition(".")
        _replace(module.get_submodule(parent), attribute, layer)
        layers[name] = layer
    return layers


def collect_adapters(layers: Mapping[str, AdapterLayer]) -> dict[str, Adapter]:
    """The layers' adapters, for :func:`dreambooth.checkpoints.lora.write_lora`."""
    return {name: layer.adapter() for name, layer in layers.items()}


def _uniform(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As torch initializes a Linear with this weight, and sd-scripts its adapters."""
    bound = 1 / math.sqrt(tensor[0].numel())
    return tensor.uniform_(-bound, bound, generator=generator)


def _replace(parent: torch.nn.Module, attribute: str, layer: torch.nn.Module) -> None:
    if attribute.isdigit() and isinstance(parent, (torch.nn.ModuleList, torch.nn.Sequential)):
        parent[int(attribute)] = layer
    else:
        setattr(parent, attribute, layer)
