"""Files of adapters (LoRA and its kin, see ``adapters/``): reading, writing, and what they add to a model's weights.

They are written in kohya's format, whose names the model's layout gives, and read in that one, in diffusers' and in
peft's. Pivotal tuning's embeddings in the same file (``bundle_emb.*``) are no adapters and are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dreambooth.checkpoints.adapters import Adapter, Difference, make_adapter
from dreambooth.checkpoints.adapters.names import (
    BIAS_PARTS,
    REFUSED,
    Key,
    diffusers_names,
    normalize_shape,
    peft_alpha,
    parse_key,
)
from dreambooth.checkpoints.family import Family
from dreambooth.checkpoints.layout import Layout
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.lora_hashes import data_hash, legacy_hash
from dreambooth.checkpoints.modules import Modules, disk_name
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.writing import cast
from dreambooth.errors import UserError
from dreambooth.files import atomic_write
from dreambooth.tensor_files import Tensors, write_tensors

Adapters = Mapping[str, Adapter]

_ATTENTION_BLOCK = "Transformer2DModel"
_CONVOLUTION_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # of the text embeddings
_VERSIONS = {"sd_v1": "Stable Diffusion 1.x", "sd_v2": "Stable Diffusion 2", "sdxl": "SDXL"}
_SIGNS = {
    "_double_blocks_": "FLUX", "single_transformer_blocks_": "FLUX", "_joint_blocks_": "Stable Diffusion 3",
    "transformer_transformer_blocks_": "Stable Diffusion 3 or FLUX", "lora_te2_": "SDXL", "text_encoder_2_": "SDXL",
}  # fmt: skip


class WeightedLora(NamedTuple):
    """A file, and how much of it the unet and the text encoders get."""

    path: Path
    unet: float = 1.0
    text: float = 1.0

    def strength(self, place: TensorRef) -> float:
        return self.unet if place.component == "unet" else self.text


def weighted_loras(
    paths: Sequence[Path],
    weights: Sequence[float],
    text_weights: Sequence[float],
    default: tuple[float, float] = (1.0, 1.0),
) -> list[WeightedLora]:
    """Each LoRA with its weights for unet and text encoder.

    ``weights``: one for each LoRA, or none for the ``default``; ``text_weights``: the same for the text encoder, none:
    as ``weights``. UserError when their numbers differ.
    """
    for given, what in ((weights, "weights"), (text_weights, "text weights")):
        if given and len(given) != len(paths):
            raise UserError(f"{len(paths)} LoRAs and {len(given)} {what}: give one for each LoRA, or none.")
    unet = weights or [default[0]] * len(paths)
    text = text_weights or weights or [default[1]] * len(paths)
    return [WeightedLora(Path(path), *strengths) for path, *strengths in zip(paths, unet, text, strict=True)]


@dataclass(frozen=True)
class LoraFile:
    """A file as read: by module name (dots as underscores) the adapters of weights and those of biases."""

    path: Path
    weights: Adapters
    metadata: dict[str, str] = field(default_factory=dict)
    biases: Adapters = field(default_factory=dict)

    @property
    def made_for(self) -> str:
        """The family of models, in words: as the file says, else as names and sizes tell."""
        version = self.metadata.get("ss_base_model_version", "")
        if version:
            return next((title for start, title in _VERSIONS.items() if version.startswith(start)), version)
        for name in self.weights:
            for sign, title in _SIGNS.items():
                if sign in name:
                    return title
        cross = [adapter.size for name, adapter in self.weights.items() if name.endswith(("attn2_to_k", "attn2_to_v"))]
        return next((_WIDTHS[size[1]] for size in cross if size and size[1] in _WIDTHS), "another model")


def family_metadata(family: Family) -> dict[str, str]:
    """What of kohya's metadata says the family; A1111 lists a LoRA by these two keys alone."""
    version = family.base_model_version
    return {"ss_base_model_version": version, "ss_v2": str(version.startswith("sd_v2"))}


def target_modules(module: nn.Module, component: str, convolutions: bool = False) -> dict[str, nn.Linear | nn.Conv2d]:
    """Path to module, for the modules that kohya's trainer covers; A1111 finds each of them by its name.

    In the unet the linear layers and 1x1 convolutions within transformer blocks, projections included; with
    ``convolutions`` (LoCon) also all within resnet blocks (both 3x3, the shortcut's 1x1, the projection of the time
    embedding) and the 3x3 of down- and upsamplers. In a text encoder the attention projections and the two layers of
    each MLP.
    """
    if component != "unet":
        inside = (["self_attn"], ["mlp"])
        return {
            path: m
            for path, m in module.named_modules()
            if isinstance(m, nn.Linear) and path.split(".")[-2:-1] in inside
        }
    kinds = (_ATTENTION_BLOCK, *_CONVOLUTION_BLOCKS) if convolutions else (_ATTENTION_BLOCK,)
    blocks = tuple(f"{path}." for path, m in module.named_modules() if type(m).__name__ in kinds)
    return {
        path: m
        for path, m in module.named_modules()
        if path.startswith(blocks) and (isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1))
    }


def lora_name(layout: Layout, component: str, module_path: str) -> str:
    """What a file that we write calls a module of the component."""
    return layout.adapter_names(TensorRef(component, f"{disk_name(component, module_path)}.weight"))[0]


def match_adapters(file: LoraFile, shapes: Mapping[TensorRef, tuple[int, ...]], layout: Layout) -> dict[TensorRef, Adapter]:
    """Which adapter belongs to which weight or bias, of those whose places (names as on disk) and shapes are given.

    UserError that lists what in the file belongs to none, or to one of another size, and what it was made for.
    """
    modules = _modules_by_name(shapes, layout)
    found: dict[TensorRef, Adapter] = {}
    strangers, misfits = [], []
    for leaf, adapters in (("weight", file.weights), ("bias", file.biases)):
        for name, adapter in adapters.items():
            module = modules.get(name)
            place = TensorRef(module.component, f"{module.name}.{leaf}") if module else None
            if place is None or place not in shapes:
                strangers.append(name)
            elif not adapter.fits(shapes[place]):
                misfits.append(name)
            else:
                found[place] = adapter
    for names, what in ((strangers, "match no module of this model"), (misfits, "have the wrong size for this model")):
        if names:
            raise UserError(_no_place(file, names, what))
    return found


def apply_lora(modules: Modules, file: LoraFile, unet_weight: float = 1.0, text_weight: float | None = None) -> int:
    """Add the file's adapters to the modules' weights in place; returns how many tensors were changed.

    ``text_weight`` is for the text encoders; None: as ``unet_weight``. UserError, before anything is changed, when a
    part of the file fits no module that is loaded.
    """
    use = WeightedLora(file.path, unet_weight, unet_weight if text_weight is None else text_weight)
    loaded = {name: getattr(modules, name, None) for name in modules.family.components}
    parameters = {
        TensorRef(component, disk_name(component, name)): parameter
        for component, module in loaded.items()
        if module is not None
        for name, parameter in module.named_parameters()
    }
    adapters = match_adapters(file, {place: tuple(parameter.shape) for place, parameter in parameters.items()}, modules.layout)
    with torch.no_grad():
        for place, adapter in adapters.items():
            target = parameters[place]
            target.copy_(adapter.apply(target.cpu(), use.strength(place)).to(target.dtype))
    return len(adapters)


def write_lora(path: Path, weights: Adapters, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16) -> None:
    """Write a file in kohya's format, whole or not at all.

    The caller's metadata (ss_*, modelspec.*) is completed with the hashes that WebUIs show and compare. Scalars and
    DoRA's lengths stay float32: rounded, these would change a weight more than many an adapter does. UserError when a
    value does not fit into ``dtype``.
    """
    tensors = {}
    for name, adapter in sorted(weights.items()):
        for part, tensor in sorted(adapter.state_dict().items()):
            values = tensor.detach().to("cpu")
            exact = part == "dora_scale" or values.dim() == 0
            tensors[f"{name}.{part}"] = values.float() if exact else cast(values, dtype, f"{path}: {name}")
    model_hash = data_hash(tensors)
    with atomic_write(Path(path)) as beside:
        # The legacy hash is defined on the file as it is with the ss_ metadata alone.
        write_tensors(beside, tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
        hashes = {
            "sshs_model_hash": model_hash,
            "sshs_legacy_hash": legacy_hash(beside),
            "modelspec.hash_sha256": f"0x{model_hash}",
        }
        write_tensors(beside, tensors, {**metadata, **hashes})


def read_lora(path: Path) -> LoraFile:
    """Read a file of adapters of any kind and naming. UserError that says what it is, when it is something else."""
    with open_tensors(path) as file:
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, (module, part) in _split_keys(file).items():
            parts.setdefault(module, {})[part] = normalize_shape(key, file.get(key))
        config = _peft_config(file)
        biases = {
            name: Difference({"diff": own.pop(part)})
            for name, own in parts.items()
            for part in BIAS_PARTS
            if part in own
        }
        weights = {name: _adapter(file.path, name, own, config) for name, own in parts.items() if own}
        return LoraFile(file.path, weights, file.metadata, biases)


def _modules_by_name(shapes: Iterable[TensorRef], layout: Layout) -> dict[str, TensorRef]:
    """A model's modules by all names that files may use."""
    modules: dict[str, TensorRef] = {}
    for place in shapes:
        module, _, leaf = place.name.rpartition(".")
        if leaf == "weight" and (names := layout.adapter_names(place)):
            for name in (*names, *diffusers_names(place.component, module)):
                modules.setdefault(name, TensorRef(place.component, module))
    return modules


def _no_place(file: LoraFile, names: list[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    total = len({*file.weights, *file.biases})
    return (
        f"{file.path} was made for {file.made_for}: {len(names)} of its {total} modules {what} ({shown}). "
        "Use a LoRA that was made for this model's family."
    )


def _split_keys(file: Tensors) -> dict[str, Key]:
    """Every key as module and part. UserError when the file is no LoRA, or one of a kind that is not read."""
    keys = {key: parse_key(key) for key in file if not key.startswith("bundle_emb.")}
    parts = {key.part for key in keys.values() if key}
    if not parts - {"weight", "alpha", "scale"}:  # "weight" alone is any model's
        raise UserError(f"{file.path} is not a LoRA: choose one in kohya's, LyCORIS' or diffusers' format.")
    if refused := sorted({REFUSED[part] for part in parts if part in REFUSED}):
        raise UserError(
            f"{file.path} is {' and '.join(refused)}, which is not read here: use LoRA, LoHa, LoKr or DoRA."
        )
    if strange := [key for key, split in keys.items() if split is None]:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise UserError(f"{file.path} is not a LoRA of a kind that is known here: it holds {strange[0]}{more}.")
    return {key: split for key, split in keys.items() if split}


def _adapter(path: Path, name: str, parts: dict[str, torch.Tensor], config: Mapping[str, Any]) -> Adapter:
    adapter = make_adapter(parts) if all(map(_is_sound, parts, parts.values())) else None
    if adapter is None:
        raise UserError(f"{path} is damaged, or no LoRA of a kind that is known here: {name} has {', '.join(parts)}.")
    if adapter.size is None and not adapter.needs_weight:
        raise UserError(f"{path} is damaged: the shapes of {name} don't belong together.")
    if adapter.alpha is None and adapter.rank:
        try:
            adapter.alpha = peft_alpha(config, name, adapter.rank)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path} has metadata (lora_adapter_metadata) that makes no sense: {error}.") from error
    return adapter


def _is_sound(part: str, tensor: torch.Tensor) -> bool:
    return tensor.numel() == 1 if part in ("alpha", "scale", "on_input") else tensor.dim() > 0 and tensor.numel() > 0


def _peft_config(file: Tensors) -> Mapping[str, Any]:
    """What diffusers notes of peft's LoraConfig, by ``component.setting``; often it is absent."""
    try:
        config = json.loads(file.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.path} has metadata (lora_adapter_metadata) that is not JSON: {error}.") from error
    return config if isinstance(config, dict) else {}
