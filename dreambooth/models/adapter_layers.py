"""Which layers of a model get an adapter: the presets of ``lora_layers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from dreambooth.settings.training import ALL_LINEAR, ATTENTION, DEFAULT_LAYERS

if TYPE_CHECKING:
    from dreambooth.models.family import Family


@dataclass(frozen=True)
class LayerKinds:
    """What the layers in a family's blocks are, by the names of modules in their paths.

    ``attention``, ``mlp``: with their projections; a layer that computes both counts as attention. ``modulation``:
    layers that never get an adapter.
    """

    attention: tuple[str, ...] = ()
    mlp: tuple[str, ...] = ()
    modulation: tuple[str, ...] = ()

    def is_modulation(self, path: str) -> bool:
        return not self._names(path).isdisjoint(self.modulation)

    def is_chosen(self, path: str, layers: str) -> bool:
        """Whether a layer belongs to ``layers``: attention, or attention and MLP."""
        kinds = self.attention if layers == ATTENTION else (*self.attention, *self.mlp)
        return not self._names(path).isdisjoint(kinds)

    @staticmethod
    def _names(path: str) -> set[str]:
        return set(path.split("."))


def chosen_layers(
    family: Family, component: str, module: nn.Module, layers: str, convolutions: bool = False
) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers of a component that get an adapter, by path. ``layers``: a choice of the setting ``lora_layers``.

    Attention and MLP are those among the family's default. Layers that are targets with ``convolutions`` alone don't
    depend on the choice.
    """
    if layers == ALL_LINEAR:
        return family.possible_adapter_targets(component, module, convolutions)
    targets = family.adapter_targets(component, module, convolutions)
    if layers == DEFAULT_LAYERS:
        return targets
    return {
        path: layer
        for path, layer in targets.items()
        if family.needs_convolutions(path) or family.layer_kinds.is_chosen(path, layers)
    }
