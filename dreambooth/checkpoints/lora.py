"""LoRA files in kohya's format: names, reading, writing, and what they add to a model's weights.

A module's weight W (out, in) becomes W + up @ down * alpha / rank, with down (rank, in) and up (out, rank).
A LoRA file names the module by its diffusers path with underscores, behind a prefix for the component.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from dreambooth.checkpoints.ldm_names import Place
from dreambooth.checkpoints.modules import Modules, disk_name
from dreambooth.checkpoints.reading import Tensors, open_tensors
from dreambooth.checkpoints.writing import Spec, data_order, tensor_bytes, write_tensors
from dreambooth.errors import UserError
from dreambooth.files import replacing

_UNET_BLOCK = "Transformer2DModel"
_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}
_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


class LoraPair(NamedTuple):
    """One module's adapter: ``down`` (rank, in[, k, k]), ``up`` (out, rank[, 1, 1])."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


LoraWeights = dict[str, LoraPair]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as read: its pairs by kohya name, and its metadata."""

    path: Path
    weights: LoraWeights
    metadata: dict[str, str]


def lora_name(component: str, module_path: str) -> str:
    """``lora_unet_down_blocks_0_...`` or ``lora_te_text_model_encoder_...`` for a module of the component."""
    return f"{_PREFIXES[component]}_{disk_name(component, module_path).replace('.', '_')}"


def target_modules(module: nn.Module, component: str) -> dict[str, nn.Module]:
    """Path to module, for the modules that kohya's LoRA covers.

    In the unet the linear layers and 1x1 convolutions within transformer blocks, projections included; in the text
    encoder the attention projections and the two layers of each MLP.
    """
    if component == "text_encoder":
        inside = ("self_attn", "mlp")
        return {
            path: m for path, m in module.named_modules() if isinstance(m, nn.Linear) and path.split(".")[-2] in inside
        }
    blocks = [f"{path}." for path, m in module.named_modules() if type(m).__name__ == _UNET_BLOCK]
    return {path: m for path, m in module.named_modules() if path.startswith(tuple(blocks)) and _is_target(m)}


def delta(pair: LoraPair, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
    """What the pair adds to a weight of ``shape``: up @ down * alpha / rank, fp32."""
    product = pair.up.flatten(1).float() @ pair.down.flatten(1).float()
    return (product * (pair.alpha / pair.rank)).reshape(shape)


def fits(pair: LoraPair, shape: tuple[int, ...] | torch.Size) -> bool:
    """Whether the pair belongs to a weight of ``shape`` (linear or convolution)."""
    return pair.up.shape[0] == shape[0] and pair.down[0].numel() == math.prod(shape[1:])


def match(file: LoraFile, shapes: Mapping[Place, tuple[int, ...]]) -> dict[Place, LoraPair]:
    """Which pair belongs to which weight, of those whose places (names as on disk) and shapes are given.

    UserError that lists what in the LoRA belongs to no weight, or to one of another size.
    """
    weights = {
        lora_name(place.component, place.name.removesuffix(".weight")): place
        for place in shapes
        if place.component in _PREFIXES and place.name.endswith(".weight")
    }
    strangers = [name for name in file.weights if name not in weights]
    if strangers:
        raise UserError(_no_place(file.path, strangers, "match no module of this model"))
    misfits = [name for name, pair in file.weights.items() if not fits(pair, shapes[weights[name]])]
    if misfits:
        raise UserError(_no_place(file.path, misfits, "have the wrong size for this model"))
    return {weights[name]: pair for name, pair in file.weights.items()}


def apply_lora(modules: Modules, file: LoraFile, weight: float = 1.0) -> int:
    """Add the LoRA, ``weight`` times, to the modules' weights in place; returns how many were changed.

    UserError, before anything is changed, when a part of the LoRA fits no module that is loaded.
    """
    loaded = {"unet": modules.unet, "text_encoder": modules.text_encoder}
    parameters = {
        Place(component, disk_name(component, name)): parameter
        for component, module in loaded.items()
        if module is not None
        for name, parameter in module.named_parameters()
    }
    pairs = match(file, {place: tuple(parameter.shape) for place, parameter in parameters.items()})
    with torch.no_grad():
        for place, pair in pairs.items():
            target = parameters[place]
            change = weight * delta(pair, target.shape).to(target.device)
            target.copy_((target.float() + change).to(target.dtype))
    return len(pairs)


def write_lora(
    path: Path, weights: LoraWeights, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16
) -> None:
    """Write a kohya file, whole or not at all.

    The caller's metadata (ss_*, modelspec.*) is completed with the hashes that WebUIs show and compare. ``alpha`` is
    stored as float32: half precision would round a large one.
    """
    tensors = {}
    for name, pair in sorted(weights.items()):
        tensors[f"{name}.{_ALPHA}"] = torch.tensor(float(pair.alpha))
        tensors[f"{name}.{_DOWN}"] = pair.down.detach().to("cpu", dtype)
        tensors[f"{name}.{_UP}"] = pair.up.detach().to("cpu", dtype)
    model_hash = _data_hash(tensors)
    with replacing(Path(path)) as beside:
        # The legacy hash is defined on the file as it is with the ss_ metadata alone.
        write_tensors(beside, tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
        hashes = {
            "sshs_model_hash": model_hash,
            "sshs_legacy_hash": _legacy_hash(beside),
            "modelspec.hash_sha256": f"0x{model_hash}",
        }
        write_tensors(beside, tensors, {**metadata, **hashes})


def read_lora(path: Path) -> LoraFile:
    """Read a kohya LoRA for SD1.x. UserError that says what the file is, when it is something else."""
    with open_tensors(path) as file:
        _require_sd1(file)
        names = dict.fromkeys(key.partition(".")[0] for key in file)
        return LoraFile(file.path, {_canonical(name): _pair(file, name) for name in names}, file.metadata)


def _is_target(module: nn.Module) -> bool:
    is_pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    return isinstance(module, nn.Linear) or is_pointwise


def _no_place(path: Path, names: list[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{path}: {len(names)} parts {what} ({shown}). Use a LoRA that was made for this model's family."


def _canonical(name: str) -> str:
    """Some tools number the only text encoder."""
    return "lora_te_" + name.removeprefix("lora_te1_") if name.startswith("lora_te1_") else name


def _require_sd1(file: Tensors) -> None:
    names = {key.partition(".")[0] for key in file}
    version = file.metadata.get("ss_base_model_version", "")
    if any(name.startswith(("lora_te2_", "lora_unet_input_blocks_")) for name in names) or version.startswith("sdxl"):
        raise UserError(f"{file.path} is a LoRA for SDXL: use one for Stable Diffusion 1.x.")
    if version.startswith("sd_v2"):
        raise UserError(f"{file.path} is a LoRA for Stable Diffusion 2: use one for Stable Diffusion 1.x.")
    if any(".lora_A." in key or ".lora.down" in key for key in file):
        raise UserError(f"{file.path} is a LoRA in diffusers' format, which is not read yet: convert it to kohya's.")
    if not any(name.startswith(("lora_unet_", "lora_te_", "lora_te1_")) for name in names):
        raise UserError(f"{file.path} is not a LoRA in kohya's format: choose a LoRA for Stable Diffusion 1.x.")


def _pair(file: Tensors, name: str) -> LoraPair:
    parts = {key.removeprefix(f"{name}.") for key in file if key.startswith(f"{name}.")}
    if not {_DOWN, _UP} <= parts <= {_DOWN, _UP, _ALPHA}:
        odd = ", ".join(sorted(parts ^ {_DOWN, _UP, _ALPHA}))
        raise UserError(f"{file.path} is not a plain LoRA, or it is damaged: {name} has or lacks {odd}.")
    down, up = file.get(f"{name}.{_DOWN}"), file.get(f"{name}.{_UP}")
    alpha = file.get(f"{name}.{_ALPHA}").float().flatten() if _ALPHA in parts else torch.zeros(1)
    has_sizes = down.dim() >= 2 and up.dim() >= 2 and 0 not in (*down.shape, *up.shape, *alpha.shape)
    if not has_sizes or up[0].numel() != down.shape[0]:
        raise UserError(f"{file.path} is damaged: the shapes of {name} don't belong together.")
    return LoraPair(down, up, alpha[0].item() or float(down.shape[0]))


def _data_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of all that follows the header."""
    digest = hashlib.sha256()
    for name in data_order({name: Spec(tuple(t.shape), t.dtype) for name, t in tensors.items()}):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def _legacy_hash(path: Path) -> str:
    """The WebUI's old short hash: 8 digits over 64 KiB from 1 MiB on."""
    with open(path, "rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
