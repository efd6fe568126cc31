"""Other names than the usual ones in the LoRAs that a run saves: kohya's and diffusers'."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth.checkpoints.adapters import Adapter, Lora
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import load_family, load_layout
from dreambooth.models.layout import TensorRef
from dreambooth.models.libraries import library_problem
from dreambooth.settings import SETTINGS, ModelFolder, Settings
from dreambooth.settings.training import DEFAULT_SPELLING, DIFFUSERS_SPELLING
from dreambooth.training.adapter_ranks import trained_layers


def problems_of(model: ModelFolder, settings: Settings) -> list[str]:
    """Why LoRAs can't have the chosen names."""
    spelling, family = settings.lora_spelling, load_family(model.working)
    if not settings.use_lora or spelling == DEFAULT_SPELLING or library_problem(family):
        return []
    where = f"lora_spelling ({SETTINGS['lora_spelling'].label})"
    if spelling == DIFFUSERS_SPELLING:
        is_plain = settings.lora_type == "LoRA" and not settings.lora_dora
        fix = f"Set lora_type to LoRA and lora_dora to off, or this to {DEFAULT_SPELLING}."
        return [] if is_plain else [f"{where}: diffusers reads plain LoRA alone. {fix}"]
    layout = load_layout(model.working, family)
    refs = [TensorRef(component, f"{path}.weight") for component, path in trained_layers(model, settings)]
    unnamed = [ref.name.removesuffix(".weight") for ref in refs if not layout.spelled_adapter_name(ref, spelling)]
    if not unnamed:
        return []
    return [
        f"{where}: kohya's LoRAs of {family.title} have no adapter for {unnamed[0]} alone. "
        f"Choose {DEFAULT_SPELLING} or {DIFFUSERS_SPELLING}."
    ]


def respelled(adapters: Mapping[str, Adapter], model: ModelFolder, spelling: str) -> dict[str, Adapter]:
    """The adapters by their names in this spelling, instead of the usual ones.

    diffusers doesn't read alpha in all pipelines: it is multiplied into the weights.
    """
    if spelling == DEFAULT_SPELLING:
        return dict(adapters)
    layout = load_layout(model.working, load_family(model.working))
    weights = [ref for ref in Manifest.load(model.source).shapes() if ref.name.endswith(".weight")]
    refs = {name: ref for ref in weights for name in layout.adapter_names(ref)[:1]}
    named = {layout.spelled_adapter_name(refs[name], spelling): adapter for name, adapter in adapters.items()}
    if spelling != DIFFUSERS_SPELLING:
        return named
    return {name: _without_alpha(adapter) for name, adapter in named.items()}


def _without_alpha(adapter: Adapter) -> Adapter:
    up = "lora_up.weight"
    return Lora({**adapter.tensors, up: adapter.tensors[up] * adapter.scaling})
