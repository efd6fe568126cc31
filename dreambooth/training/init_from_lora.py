"""Adapters that start from a file instead of from nothing: a LoRA that was made before, here or elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.family import family_of
from dreambooth.checkpoints.layout import Layout
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.lora import LoraFile, match_adapters, read_lora
from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import load_layout
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.settings import SETTINGS, Folders, ModelFolder, Settings, parse
from dreambooth.training.adapters import AdapterConfig, AdapterLayer, adapter_config

# The settings that say a component's ranks and alphas, beside k x k convolutions and elsewhere.
_SIZES = {
    ("unet", False): ("lora_unet_rank", "lora_unet_alpha"),
    ("unet", True): ("lora_conv_rank", "lora_conv_alpha"),
    ("text", False): ("lora_txt_rank", "lora_txt_alpha"),
}

# All settings of adapters that a file may decide.
_OF_FILES = {"lora_type", "lora_dora", *(key for keys in _SIZES.values() for key in keys)}


def find(folders: Folders, chosen: str) -> Path:
    """The file that was meant: a path, or a name in the folder of LoRAs. UserError when there is none."""
    chosen = chosen.strip()
    for path in (expand_user(chosen), folders.loras / chosen, folders.loras / f"{chosen}.safetensors"):
        if path.is_file():
            return path
    raise UserError(f"lora_start: there is no file {chosen}, nor one of that name in {folders.loras}.")


def problems_of(model: ModelFolder, settings: Settings) -> list[str]:
    """Why adapters as the settings have them could not start from the chosen file."""
    if not (settings.use_lora and settings.lora_start.strip()):
        return []
    try:
        file = read_lora(find(model.folders, settings.lora_start))
        adapters, shapes, _ = _matched(file, model)
    except UserError as error:
        return list(error.problems)
    wanted: dict[str, set[object]] = defaultdict(set)  # what each setting would have to be
    for place, adapter in adapters.items():
        for key, value in _needed(place, shapes[place], adapter, settings).items():
            wanted[key].add(value)
    said = [f"lora_start: {file.path} changes biases too, which are not trained here."] if file.biases else []
    return said + [_in_words(file, key, values) for key, values in wanted.items()]


def settings_from_lora(model: ModelFolder, settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Values of the settings with which adapters are of the chosen file's type, ranks and alphas; and what prevents it.

    As sd-scripts do, a component that the file has no adapter for is not trained, nor are convolutions. What can't be
    set (a file with several ranks, a component that the settings don't train) is among the problems.
    """
    try:
        adapters, shapes, _ = _matched(read_lora(find(model.folders, settings.lora_start)), model)
    except UserError as error:
        return {}, list(error.problems)
    in_unet = [place for place in adapters if place.component == "unet"]
    changed: dict[str, Any] = {"use_lora_extended": any(map(_is_beside_blocks, in_unet))}
    if in_unet and len(in_unet) == len(adapters):
        changed["stop_text_encoder"] = 0.0
    elif adapters and not in_unet:
        changed["train_unet"] = False
    for _ in range(2):  # the type first: ranks are compared once it is right
        trial = parse(Settings, changed, base=settings)
        wanted: dict[str, set[Any]] = defaultdict(set)
        for place, adapter in adapters.items():
            for key, value in _needed(place, shapes[place], adapter, trial).items():
                wanted[key].add(value)
        changed |= {key: next(iter(values)) for key, values in wanted.items() if len(values) == 1 and key in _OF_FILES}
    problems = problems_of(model, parse(Settings, changed, base=settings))
    return {key: value for key, value in changed.items() if value != getattr(settings, key)}, problems


def init_adapters(path: Path, layers: Mapping[str, AdapterLayer], model: ModelFolder) -> int:
    """Give the layers the file's values; returns how many have some. The others start from nothing."""
    file = read_lora(path)
    adapters, _, layout = _matched(file, model)
    for place, adapter in adapters.items():
        layer = layers.get(layout.adapter_names(place)[0])
        if layer is None:
            raise UserError(f"lora_start: {file.path} has an adapter for {place.name}, which is not trained here.")
        _take(layer, adapter, f"lora_start: {file.path}, {place.name}")
    return len(adapters)


@torch.no_grad()
def _take(layer: AdapterLayer, adapter: Adapter, what: str) -> None:
    mine = dict(layer.adapter().tensors)
    theirs = dict(adapter.tensors)
    if layer.dora:
        scale = adapter.dora_scale
        if scale is None or scale.shape[:2] != layer.magnitude.shape[:2]:
            raise UserError(f"{what}: its lengths are those of outputs; DoRA here learns those of inputs.")
        mine["dora_scale"], theirs["dora_scale"] = layer.magnitude, scale
    if {k: t.numel() for k, t in mine.items()} != {k: t.numel() for k, t in theirs.items()}:
        raise UserError(f"{what}: it is made of other parts ({', '.join(theirs)}) than these settings train.")
    for name, parameter in mine.items():
        parameter.copy_(theirs[name].reshape(parameter.shape))


def _needed(place: TensorRef, shape: tuple[int, ...], adapter: Adapter, settings: Settings) -> dict[str, object]:
    """The settings that would have to be others for this adapter, with what they would have to be."""
    in_unet = place.component == "unet"
    beside_blocks = in_unet and _is_beside_blocks(place)
    form: AdapterConfig = adapter_config(settings, place.component)
    if in_unet and not settings.train_unet:
        return {"train_unet": True}
    if not in_unet and settings.stop_text_encoder == 0:
        return {"stop_text_encoder": "more than 0"}
    if beside_blocks and not settings.use_lora_extended:
        return {"use_lora_extended": True}
    needed: dict[str, object] = {}
    if adapter.kind != form.kind:
        return {"lora_type": adapter.kind}
    if (adapter.dora_scale is not None) != form.dora:
        needed["lora_dora"] = not form.dora
    if adapter.rank is None:  # a LoKr of two whole matrices
        return needed
    is_wide = any(side > 1 for side in shape[2:])
    rank_key, alpha_key = _SIZES["unet" if in_unet else "text", is_wide]
    rank, alpha = (form.conv_rank, form.conv_alpha) if is_wide else (form.rank, form.alpha)
    if adapter.rank != rank:
        needed[rank_key] = adapter.rank
    of_file = adapter.scaling * adapter.rank
    if abs(of_file - (alpha or adapter.rank)) > 1e-3 * abs(of_file):
        needed[alpha_key] = round(of_file, 4)
    return needed


def _is_beside_blocks(place: TensorRef) -> bool:
    """Whether an adapter of this weight of the unet is LoCon's."""
    return any(part in place.name for part in ("resnets.", "samplers."))


def _in_words(file: LoraFile, key: str, values: set[object]) -> str:
    setting = SETTINGS[key]
    if len(values) > 1:
        of_all = ", ".join(map(str, sorted(values, key=str)[:4]))
        return (
            f"{key} ({setting.label}): {file.path} has several ({of_all}), and training has one: resize it to one "
            "rank first, under Tools."
        )
    (value,) = values
    return f"{key} ({setting.label}): to start from {file.path} it must be {value}."


def _matched(file: LoraFile, model: ModelFolder) -> tuple[dict[TensorRef, Adapter], dict[TensorRef, tuple[int, ...]], Layout]:
    """The file's adapters by the weights that they change; the shapes of all weights; what files call them."""
    manifest = Manifest.load(model.source)
    shapes, layout = manifest.shapes(), load_layout(model.working, family_of(manifest.family))
    return match_adapters(file, shapes, layout), shapes, layout
