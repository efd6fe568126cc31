"""Whether ranks by pattern (``lora_ranks``) fit the layers that are trained, before anything is loaded."""

from __future__ import annotations

from dreambooth.checkpoints.modules import load_configs, load_family, load_layout
from dreambooth.errors import UserError
from dreambooth.models.adapter_layers import chosen_layers
from dreambooth.models.libraries import library_problem
from dreambooth.settings import SETTINGS, ModelFolder, Settings
from dreambooth.settings.components import trained_components
from dreambooth.settings.lora_ranks import KEY, parse_ranks, pattern_of


def problems_of(model: ModelFolder, settings: Settings) -> list[str]:
    """Malformed entries, and patterns that no layer matches which would get an adapter."""
    if not settings.use_lora or not settings.lora_ranks.strip():
        return []
    try:
        patterns = parse_ranks(settings.lora_ranks)
    except UserError as error:
        return list(error.problems)
    if library_problem(load_family(model.working)):
        return []  # reported as such; modules can't be made
    layers = trained_layers(model, settings)
    name = f"{KEY} ({SETTINGS[KEY].label})"
    unused = [pattern for pattern in patterns if not any(pattern.matches(*layer) for layer in layers)]
    if unused:
        example = f", such as {'.'.join(layers[0])}" if layers else ""
        return [
            f"{name}: no layer that gets an adapter matches {pattern.pattern!r}. Compare it with their paths{example}."
            for pattern in unused
        ]
    if all((pattern := pattern_of(patterns, *layer)) and pattern.rank == 0 for layer in layers):
        return [f"{name}: all layers have rank 0, so nothing is trained. Give some a rank."]
    return []


def trained_layers(model: ModelFolder, settings: Settings) -> list[tuple[str, str]]:
    """Component and path of each layer that gets an adapter, by its name on disk."""
    family = load_family(model.working)
    configs, layout = load_configs(model.working, family), load_layout(model.working, family)
    return [
        (part.name, layout.disk_name(part.name, path))
        for part in family.components
        if part.role in trained_components(settings)
        for path in chosen_layers(
            family, part.name, family.make_module(part.name, configs[part.name]), settings.lora_layers,
            settings.use_lora_extended,
        )
    ]  # fmt: skip
