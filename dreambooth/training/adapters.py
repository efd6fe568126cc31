"""LoRA (arXiv:2106.09685) beside frozen layers, in kohya's sense: W + up @ down * alpha / rank."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from dreambooth.checkpoints.lora import LoraPair, LoraWeights, lora_name, target_modules
from dreambooth.training.noise import generator_for


class LoraLayer(torch.nn.Module):
    """A frozen Linear or Conv2d and its adapter. ``up`` starts at zero: at first nothing changes."""

    def __init__(self, base: torch.nn.Linear | torch.nn.Conv2d, rank: int, alpha: float, name: str, seed: int) -> None:
        super().__init__()
        self.base, self.rank, self.alpha = base, rank, alpha
        self.scale = alpha / rank
        kernel = tuple(base.weight.shape[2:])  # () for Linear, (1, 1) for Conv2d
        device = base.weight.device
        down = torch.empty(rank, base.weight.shape[1], *kernel)
        bound = 1 / math.sqrt(down[0].numel())  # as torch initialises a Linear, and kohya's trainer its adapters
        down.uniform_(-bound, bound, generator=generator_for(seed, "lora", name))
        self.down = torch.nn.Parameter(down.to(device))
        self.up = torch.nn.Parameter(torch.zeros(base.weight.shape[0], rank, *kernel, device=device))

    def forward(self, x: torch.Tensor, *args: object) -> torch.Tensor:
        if self.down.ndim == 4:
            return self.base(x) + F.conv2d(F.conv2d(x, self.down), self.up) * self.scale
        return self.base(x) + F.linear(F.linear(x, self.down), self.up) * self.scale

    # Some callers look at the layer that they think stands here.
    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias


def inject(module: torch.nn.Module, component: str, rank: int, alpha: float, seed: int) -> dict[str, LoraLayer]:
    """Put an adapter beside every layer that kohya's trainer adapts; returns them by their name in the LoRA file.

    Args:
        component: "unet" or "text_encoder".
        alpha: 0 stands for ``rank``.
    """
    layers = {}
    for path, base in target_modules(module, component).items():
        name = lora_name(component, path)
        layer = LoraLayer(base, rank, alpha or rank, name, seed)
        parent, _, attribute = path.rpartition(".")
        _replace(module.get_submodule(parent), attribute, layer)
        layers[name] = layer
    return layers


def weights_of(layers: dict[str, LoraLayer]) -> LoraWeights:
    """The adapters as :func:`dreambooth.checkpoints.lora.write_lora` takes them."""
    return {name: LoraPair(layer.down.detach(), layer.up.detach(), layer.alpha) for name, layer in layers.items()}


def _replace(parent: torch.nn.Module, attribute: str, layer: torch.nn.Module) -> None:
    if attribute.isdigit() and isinstance(parent, (torch.nn.ModuleList, torch.nn.Sequential)):
        parent[int(attribute)] = layer
    else:
        setattr(parent, attribute, layer)
