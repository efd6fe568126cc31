"""A training adapter: a LoRA that is active while a distilled model trains, and neither in previews nor in the result.

It undoes the distillation, so that training does not have to (ai-toolkit's assistant LoRA, such as
ostris/zimage_turbo_training_adapter). It is computed beside the frozen weights instead of being merged: weights keep
their values and may be quantized, and previews show what the result does without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dreambooth.checkpoints.adapters import Adapter, Lora
from dreambooth.checkpoints.lora import lora_name, match_adapters
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.lora_tags import find_lora
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import Modules, load_family, load_layout
from dreambooth.errors import UserError
from dreambooth.settings import ModelFolder, Settings
from dreambooth.training.adapters import AdapterLayer


class WithTrainingAdapter(nn.Module):
    """A frozen layer with a frozen LoRA. ``scale``: alpha / rank; 0 while it is not active."""

    down: torch.Tensor
    up: torch.Tensor

    def __init__(self, base: Any, adapter: Adapter) -> None:
        super().__init__()
        self.base, self.scale = base, adapter.scaling
        # Arguments of the convolution; None for a linear layer.
        self.conv_args: Any = (base.stride, base.padding, base.dilation) if isinstance(base, nn.Conv2d) else None
        weight = base.weight
        for name in ("down", "up"):
            factor = adapter.tensors[f"lora_{name}.weight"]
            self.register_buffer(name, factor.to(weight.device, weight.dtype), persistent=False)

    def forward(self, x: torch.Tensor, *args: object) -> torch.Tensor:
        output = self.base(x)
        if not self.scale:
            return output
        if self.conv_args:
            return output + F.conv2d(F.conv2d(x, self.down, None, *self.conv_args), self.up) * self.scale
        return output + F.linear(F.linear(x, self.down), self.up) * self.scale

    # Read by adapters on top, and by diffusers.
    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias


def problems_of(model: ModelFolder, settings: Settings) -> list[str]:
    """Why the chosen training adapter can't be used."""
    if not _is_chosen(settings):
        return []
    try:
        _adapters_by_name(model, settings)
    except UserError as error:
        return [text if text.startswith("training_adapter") else f"training_adapter: {text}" for text in error.problems]
    return []


def add_training_adapter(model: ModelFolder, modules: Modules, settings: Settings) -> None:
    """Put the chosen file on the denoiser, below the adapters that are trained; nothing without one."""
    if not _is_chosen(settings):
        return
    adapters, denoiser = _adapters_by_name(model, settings), modules.denoiser
    name_of_component = modules.family.denoiser.name
    for path, layer in list(denoiser.named_modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d | AdapterLayer) or path.endswith(".base"):
            continue
        adapter = adapters.get(lora_name(modules.layout, name_of_component, path))
        if adapter is None:
            continue
        if isinstance(layer, AdapterLayer):
            adapted: Any = WithTrainingAdapter(layer.base, adapter)
            layer.base = adapted
        else:
            parent, _, attribute = path.rpartition(".")
            setattr(denoiser.get_submodule(parent), attribute, WithTrainingAdapter(layer, adapter))


def file_bytes(model: ModelFolder, settings: Settings) -> int:
    """Size of the chosen file, hardly more than that of its tensors; 0 without one."""
    if not _is_chosen(settings):
        return 0
    with contextlib.suppress(UserError, OSError):
        return find_lora(model.folders, settings.training_adapter, "training_adapter").stat().st_size
    return 0


@contextlib.contextmanager
def without_training_adapter(module: nn.Module) -> Iterator[None]:
    """In the block, ``module`` computes without it."""
    layers = [part for part in module.modules() if isinstance(part, WithTrainingAdapter)]
    scales = [layer.scale for layer in layers]
    try:
        for layer in layers:
            layer.scale = 0.0
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scale = scale


def _is_chosen(settings: Settings) -> bool:
    return settings.use_lora and bool(settings.training_adapter.strip())


def _adapters_by_name(model: ModelFolder, settings: Settings) -> Mapping[str, Adapter]:
    """The file's adapters by the names of their modules in files that we write. UserError if they can't be used."""
    file = read_lora(find_lora(model.folders, settings.training_adapter, "training_adapter"))
    family, shapes = load_family(model.working), Manifest.load(model.source).shapes()
    layout = load_layout(model.working, family)
    adapters = match_adapters(file, shapes, layout)
    is_plain = all(
        isinstance(adapter, Lora) and adapter.dora_scale is None and "lora_mid.weight" not in adapter.tensors
        for adapter in adapters.values()
    )
    in_denoiser = all(ref.component == family.denoiser.name for ref in adapters)
    if file.biases or not (is_plain and in_denoiser):
        raise UserError(f"training_adapter: {file.path} is not a plain LoRA of the {family.denoiser.title} alone.")
    return {layout.adapter_names(ref)[0]: adapter for ref, adapter in adapters.items()}
