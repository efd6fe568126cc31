"""Adapters that are initialized from an existing LoRA file, made here or by other programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.lora import match_adapters
from dreambooth.checkpoints.lora_file import LoraFile, read_lora
from dreambooth.checkpoints.lora_tags import find_lora
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import load_family, load_layout
from dreambooth.errors import UserError
from dreambooth.models.family import Family
from dreambooth.models.layout import Layout, TensorRef
from dreambooth.models.registry import family_of
from dreambooth.settings import SETTINGS, ModelFolder, Settings, parse
from dreambooth.settings.components import CONV_ALPHA, CONV_RANK, DENOISER, TEXT_ENCODER, TrainedRole, keys_of
from dreambooth.settings.lora_ranks import KEY
from dreambooth.training.adapters import AdapterLayer, adapter_config

# Settings of adapters that a LoRA file determines.
_DETERMINED = {"lora_type", "lora_dora", DENOISER.rank, DENOISER.alpha, TEXT_ENCODER.rank, TEXT_ENCODER.alpha,
               CONV_RANK, CONV_ALPHA}  # fmt: skip


def problems_of(model: ModelFolder, settings: Settings) -> list[str]:
    """Why adapters with these settings can't be initialized from the chosen file."""
    if not (settings.use_lora and settings.lora_start.strip()):
        return []
    try:
        file = read_lora(find_lora(model.folders, settings.lora_start))
        adapters, shapes, _ = _match_to_model(file, model)
    except UserError as error:
        return list(error.problems)
    family = load_family(model.working)
    needed: dict[str, set[object]] = defaultdict(set)  # the values that each setting would need
    for ref, adapter in adapters.items():
        for key, value in _required_settings(family, ref, shapes[ref], adapter, settings).items():
            needed[key].add(value)
    problems = [f"lora_start: {file.path} also changes biases, which can't be trained."] if file.biases else []
    mismatches = {key: values for key, values in needed.items() if values != {getattr(settings, key)}}
    return problems + [_describe(file, key, values) for key, values in mismatches.items()]


def settings_from_lora(model: ModelFolder, settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Settings with the type, ranks and alphas of the chosen file (only those to be changed), and problems.

    As in sd-scripts, a component without an adapter in the file is not trained, nor are convolutions. Problems are what
    settings can't express: a file with several ranks, a component that is not trained.
    """
    try:
        adapters, shapes, _ = _match_to_model(read_lora(find_lora(model.folders, settings.lora_start)), model)
    except UserError as error:
        return {}, list(error.problems)
    family = load_family(model.working)
    denoiser_refs = [ref for ref in adapters if ref.component == family.denoiser.name]
    needs_locon = any(family.needs_convolutions(ref.name) for ref in denoiser_refs)
    changed: dict[str, Any] = {"use_lora_extended": needs_locon}
    if denoiser_refs and len(denoiser_refs) == len(adapters):
        changed["stop_text_encoder"] = 0.0
    elif adapters and not denoiser_refs:
        changed["train_unet"] = False
    for _ in range(2):  # the type first: ranks are compared once it is right
        trial = parse(Settings, changed, base=settings)
        needed: dict[str, set[Any]] = defaultdict(set)
        for ref, adapter in adapters.items():
            for key, value in _required_settings(family, ref, shapes[ref], adapter, trial).items():
                needed[key].add(value)
        changed |= {
            key: next(iter(values)) for key, values in needed.items() if len(values) == 1 and key in _DETERMINED
        }
    problems = problems_of(model, parse(Settings, changed, base=settings))
    return {key: value for key, value in changed.items() if value != getattr(settings, key)}, problems


def init_adapters(path: Path, layers: Mapping[str, AdapterLayer], model: ModelFolder) -> int:
    """Copy the file's weights into the layers; returns the number of adapters. Other layers stay as initialized."""
    file = read_lora(path)
    adapters, _, layout = _match_to_model(file, model)
    for ref, adapter in adapters.items():
        layer = layers.get(layout.adapter_names(ref)[0])
        if layer is None:
            raise UserError(
                f"lora_start: {file.path} has an adapter for {ref.name}, which is not trained with these settings."
            )
        _copy_weights(layer, adapter, f"lora_start: {file.path}, {ref.name}")
    return len(adapters)


@torch.no_grad()
def _copy_weights(layer: AdapterLayer, adapter: Adapter, what: str) -> None:
    parameters = dict(layer.adapter().tensors)
    saved = dict(adapter.tensors)
    if layer.dora:
        scale = adapter.dora_scale
        if scale is None or scale.shape[:2] != layer.magnitude.shape[:2]:
            raise UserError(f"{what}: its DoRA magnitudes are per output; only magnitudes per input can be trained.")
        parameters["dora_scale"], saved["dora_scale"] = layer.magnitude, scale
    if {k: t.numel() for k, t in parameters.items()} != {k: t.numel() for k, t in saved.items()}:
        raise UserError(f"{what}: its tensors ({', '.join(saved)}) differ from those that these settings train.")
    for name, parameter in parameters.items():
        parameter.copy_(saved[name].reshape(parameter.shape))


def _required_settings(
    family: Family, ref: TensorRef, shape: tuple[int, ...], adapter: Adapter, settings: Settings
) -> dict[str, object]:
    """Settings that would have to be changed for this adapter, and its rank, with the values that they need."""
    in_denoiser = ref.component == family.denoiser.name
    role: TrainedRole = "denoiser" if in_denoiser else "text_encoder"
    config = adapter_config(settings, role)
    if in_denoiser and not settings.train_unet:
        return {"train_unet": True}
    if not in_denoiser and settings.stop_text_encoder == 0:
        return {"stop_text_encoder": "more than 0"}
    if in_denoiser and family.needs_convolutions(ref.name) and not settings.use_lora_extended:
        return {"use_lora_extended": True}
    required: dict[str, object] = {}
    if adapter.kind != config.kind:
        return {"lora_type": adapter.kind}
    if (adapter.dora_scale is not None) != config.dora:
        required["lora_dora"] = not config.dora
    if adapter.rank is None:  # a LoKr of two full matrices
        return required
    is_wide = any(side > 1 for side in shape[2:])
    keys = keys_of(role)
    rank_key, alpha_key = (CONV_RANK, CONV_ALPHA) if is_wide else (keys.rank, keys.alpha)
    path = ref.name.rpartition(".")[0]
    own_config = config.for_layer(ref.component, path)
    if own_config is None or (own_config is not config and adapter.rank != own_config.sizes(torch.Size(shape))[0]):
        return {**required, KEY: f"{adapter.rank} for {path}"}
    rank, alpha = (config.conv_rank, config.conv_alpha) if is_wide else (config.rank, config.alpha)
    if own_config is config:
        required[rank_key] = adapter.rank
    own_rank = adapter.rank if own_config is config else rank  # that alpha is set for
    file_alpha = adapter.scaling * own_rank
    if abs(file_alpha - (alpha or own_rank)) > 1e-3 * abs(file_alpha):
        required[alpha_key] = round(file_alpha, 4)
    return required


def _describe(file: LoraFile, key: str, values: set[object]) -> str:
    setting = SETTINGS[key]
    if key == KEY:
        listed = ", ".join(sorted(map(str, values))[:4])
        return f"{key} ({setting.label}): to start from {file.path}, the rank must be {listed}."
    if len(values) > 1:
        listed = ", ".join(map(str, sorted(values, key=str)[:4]))
        return (
            f"{key} ({setting.label}): {file.path} has several values ({listed}), but training uses one. Give ranks "
            f"by pattern ({KEY}), or resize the LoRA to a single rank first, under Tools."
        )
    (value,) = values
    return f"{key} ({setting.label}): to start from {file.path}, it must be {value}."


def _match_to_model(
    file: LoraFile, model: ModelFolder
) -> tuple[dict[TensorRef, Adapter], dict[TensorRef, tuple[int, ...]], Layout]:
    """The file's adapters by the weights that they change, the shapes of all weights, and the model's layout."""
    manifest = Manifest.load(model.source)
    shapes, layout = manifest.shapes(), load_layout(model.working, family_of(manifest.family))
    return match_adapters(file, shapes, layout), shapes, layout
