"""Adapter files (LoRA and the other kinds in ``adapters/``): reading, writing, and applying them to a model.

Files are written in kohya's format, and read in those of kohya, LyCORIS, diffusers, peft, OneTrainer, ComfyUI and
cloneofsimo. Embeddings of pivotal tuning in the same file (``bundle_emb.*``) are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dreambooth.checkpoints.adapters import IA3, Adapter, Difference, make_adapter
from dreambooth.checkpoints.adapters.dora import could_be_magnitude
from dreambooth.checkpoints.adapters.module_names import other_names
from dreambooth.checkpoints.adapters.names import (
    BIAS_TENSORS,
    UNSUPPORTED,
    Key,
    is_adapter_key,
    normalize_shape,
    parse_key,
    peft_alpha,
)
from dreambooth.checkpoints.adapters.positional import is_positional, positional_keys
from dreambooth.checkpoints.lora_hashes import data_hash, legacy_hash
from dreambooth.checkpoints.modules import Modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.writing import cast, is_finite
from dreambooth.errors import UserError
from dreambooth.files import atomic_write
from dreambooth.models.layout import Layout, Shape, TensorRef
from dreambooth.models.registry import Family
from dreambooth.tensor_files import Tensors, write_tensors
from dreambooth.text import count

Adapters = Mapping[str, Adapter]

_ATTENTION_BLOCK = "Transformer2DModel"
_CONVOLUTION_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
SDXL = "SDXL"
_FAMILY_OF_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2", 2048: SDXL}  # of text embeddings
_FAMILY_OF_VERSION = {"sd_v1": "Stable Diffusion 1.x", "sd_v2": "Stable Diffusion 2", "sdxl": SDXL}
_FAMILY_OF_MODULE = {
    "_double_blocks_": "FLUX", "single_transformer_blocks_": "FLUX", "_joint_blocks_": "Stable Diffusion 3",
    "transformer_transformer_blocks_": "Stable Diffusion 3 or FLUX", "lora_te2_": SDXL, "text_encoder_2_": SDXL,
    "clip_g_": SDXL,
}  # fmt: skip


UNKNOWN_FAMILY = "another model"


class WeightedLora(NamedTuple):
    """A LoRA file with its weights for the denoiser and the text encoders."""

    path: Path
    denoiser: float = 1.0
    text: float = 1.0

    def strength(self, ref: TensorRef) -> float:
        return self.denoiser if ref.component == "unet" else self.text


def weighted_loras(
    paths: Sequence[Path],
    weights: Sequence[float],
    text_weights: Sequence[float],
    default: tuple[float, float] = (1.0, 1.0),
) -> list[WeightedLora]:
    """Pair each LoRA with its weights for the denoiser and the text encoders.

    ``weights``: one per LoRA, or empty for the ``default``. ``text_weights``: the same for the text encoders, or empty
    to use ``weights``. UserError when the numbers differ.
    """
    for given, noun in ((weights, "weight"), (text_weights, "text weight")):
        if given and len(given) != len(paths):
            counts = f"{count(len(paths), 'LoRA')} but {count(len(given), noun)}"
            raise UserError(f"{counts}: give one {noun} for each LoRA, or none.")
    denoiser = weights or [default[0]] * len(paths)
    text = text_weights or weights or [default[1]] * len(paths)
    return [WeightedLora(Path(path), *strengths) for path, *strengths in zip(paths, denoiser, text, strict=True)]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file: the adapters of weights and of biases by module name (with underscores for dots)."""

    path: Path
    weights: Adapters
    metadata: dict[str, str] = field(default_factory=dict)
    biases: Adapters = field(default_factory=dict)

    @property
    def no_effect(self) -> str:
        """Why it changes nothing in any model, in one line; empty when it does change something."""
        adapters = [*self.weights.values(), *self.biases.values()]
        if not all(adapter.changes_nothing for adapter in adapters):
            return ""
        only_alpha = all(adapter.scaling == 0 for adapter in adapters)
        reason = "alpha is 0" if only_alpha else "alpha or a matrix is all zeros, as before the first step,"
        return (
            f"{self.path} changes nothing: {reason} in all of its {count(len(adapters), 'module')}. Use another LoRA."
        )

    @property
    def made_for(self) -> str:
        """The title of the model family: from the metadata, else guessed from module names and sizes."""
        version = self.metadata.get("ss_base_model_version", "")
        if version:
            return next((title for start, title in _FAMILY_OF_VERSION.items() if version.startswith(start)), version)
        for name in self.weights:
            for part, title in _FAMILY_OF_MODULE.items():
                if part in name:
                    return title
        cross_attention = (a.size for name, a in self.weights.items() if name.endswith(("attn2_to_k", "attn2_to_v")))
        widths = (size[1] for size in cross_attention if size)
        return next((_FAMILY_OF_WIDTH[width] for width in widths if width in _FAMILY_OF_WIDTH), UNKNOWN_FAMILY)


def family_metadata(family: Family) -> dict[str, str]:
    """kohya's metadata of the model family; A1111 filters its list of LoRAs by these two keys."""
    version = family.base_model_version
    return {"ss_base_model_version": version, "ss_v2": str(version.startswith("sd_v2"))}


def target_modules(module: nn.Module, component: str, convolutions: bool = False) -> dict[str, nn.Linear | nn.Conv2d]:
    """The modules that get an adapter, by path: the same ones as in kohya's trainer, all supported by A1111.

    In the unet the linear layers and 1x1 convolutions of transformer blocks, projections included; with
    ``convolutions`` (LoCon) also all layers of resnet blocks (both 3x3, the 1x1 of the shortcut, the projection of the
    time embedding) and the 3x3 of down- and upsamplers. In a text encoder the attention projections and the two layers
    of each MLP.
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
    """The name of a module in the LoRA files that we write."""
    return layout.adapter_names(TensorRef(component, f"{layout.disk_name(component, module_path)}.weight"))[0]


def match_adapters(
    file: LoraFile, shapes: Mapping[TensorRef, tuple[int, ...]], layout: Layout
) -> dict[TensorRef, Adapter]:
    """Assign each adapter to a weight or bias among ``shapes`` (names as on disk).

    UserError that lists the adapters without a matching module or of another size, and the family of the file.
    """
    modules = _modules_by_name(shapes, layout)
    matched: dict[TensorRef, Adapter] = {}
    unmatched, mismatched = [], []
    for leaf, adapters in (("weight", file.weights), ("bias", file.biases)):
        for name, adapter in adapters.items():
            module = modules.get(name)
            ref = TensorRef(module.component, f"{module.name}.{leaf}") if module else None
            if ref is None or ref not in shapes:
                unmatched.append(name)
            elif not adapter.fits(shapes[ref]):
                mismatched.append(name)
            elif ref in matched:
                raise UserError(
                    f"{file.path} has two adapters for {ref.name}, under different names. Use another LoRA."
                )
            else:
                matched[ref] = adapter
    for names, problem in (
        (unmatched, "not found in this model"),
        (mismatched, "of the wrong size for this model"),
    ):
        if names:
            raise UserError(_mismatch_message(file, names, problem, n_matched=len(matched)))
    return matched


def apply_lora(modules: Modules, file: LoraFile, unet_weight: float = 1.0, text_weight: float | None = None) -> int:
    """Merge the adapters of a file into the modules' weights in place; returns the number of changed tensors.

    ``text_weight`` is for the text encoders; None: the same as ``unet_weight``. UserError, before anything is changed,
    when an adapter matches no loaded module.
    """
    lora = WeightedLora(file.path, unet_weight, unet_weight if text_weight is None else text_weight)
    parameters = {
        TensorRef(component, modules.layout.disk_name(component, name)): parameter
        for component, module in modules.parts.items()
        for name, parameter in module.named_parameters()
    }
    shapes = {ref: tuple(parameter.shape) for ref, parameter in parameters.items()}
    adapters = match_adapters(file, shapes, modules.layout)
    with torch.no_grad():
        for ref, adapter in adapters.items():
            target = parameters[ref]
            target.copy_(adapter.apply(target.cpu(), lora.strength(ref)).to(target.dtype))
    return len(adapters)


def write_lora(path: Path, weights: Adapters, metadata: Mapping[str, str], dtype: torch.dtype = torch.float16) -> None:
    """Write a file in kohya's format, atomically.

    ``metadata`` (ss_*, modelspec.*) is extended by the hashes that WebUIs display and compare. Scalars and DoRA
    magnitudes stay float32, since rounding them could change a weight more than the adapter itself. UserError when a
    value is out of the range of ``dtype``.
    """
    tensors = {}
    for name, adapter in sorted(weights.items()):
        for tensor_name, tensor in sorted(adapter.state_dict().items()):
            values = tensor.detach().to("cpu")
            needs_fp32 = tensor_name == "dora_scale" or values.dim() == 0
            tensors[f"{name}.{tensor_name}"] = values.float() if needs_fp32 else cast(values, dtype, f"{path}: {name}")
    model_hash = data_hash(tensors)
    with atomic_write(Path(path)) as temporary:
        # The legacy hash is defined for the file with only the ss_ metadata.
        write_tensors(temporary, tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
        hashes = {
            "sshs_model_hash": model_hash,
            "sshs_legacy_hash": legacy_hash(temporary),
            "modelspec.hash_sha256": f"0x{model_hash}",
        }
        write_tensors(temporary, tensors, {**metadata, **hashes})


def is_adapter_file(shapes: Mapping[str, Shape]) -> bool:
    """Whether a file with these tensors is a LoRA or another adapter file, of any naming scheme."""
    if is_positional(shapes):
        return True
    parsed = [parse_key(key) for key in shapes if is_adapter_key(key)]
    return any(key is not None and key.tensor not in ("weight", "alpha", "scale", "magnitude") for key in parsed)


def read_lora(path: Path) -> LoraFile:
    """Read an adapter file of any kind and naming scheme. UserError when it is something else or not supported."""
    with open_tensors(path) as file:
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        for key, (module, tensor_name) in _parse_keys(file).items():
            tensors.setdefault(module, {})[tensor_name] = normalize_shape(key, file.get(key))
        _require_finite(file.path, tensors)
        config = _peft_config(file)
        biases = {
            module: Difference({"diff": own.pop(name)})
            for module, own in tensors.items()
            for name in BIAS_TENSORS
            if name in own
        }
        weights = {module: _adapter(file.path, module, own, config) for module, own in tensors.items() if own}
        return LoraFile(file.path, weights, file.metadata, biases)


def _modules_by_name(shapes: Iterable[TensorRef], layout: Layout) -> dict[str, TensorRef]:
    """The modules of a model by all of their names in adapter files."""
    modules: dict[str, TensorRef] = {}
    only_text_encoder = not any(ref.component == "text_encoder_2" for ref in shapes)
    for ref in shapes:
        module, _, leaf = ref.name.rpartition(".")
        if leaf == "weight" and (names := layout.adapter_names(ref)):
            for name in (*names, *other_names(ref.component, names, only_text_encoder)):
                modules.setdefault(name, TensorRef(ref.component, module))
    return modules


def _mismatch_message(file: LoraFile, names: list[str], problem: str, n_matched: int) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    total = len({*file.weights, *file.biases})
    if n_matched > len(names):
        return (
            f"{file.path} fits this model only in part: {len(names)} of {count(total, 'module')} {problem} ({shown}). "
            "It is damaged, or was made for a model with other modules. Use another LoRA."
        )
    return (
        f"{file.path} was made for {file.made_for}: {len(names)} of {count(total, 'module')} {problem} ({shown}). "
        "Use a LoRA of this model's family."
    )


def _parse_keys(file: Tensors) -> dict[str, Key]:
    """Every key as module and tensor name. UserError when the file is no LoRA, or of an unsupported kind."""
    if is_positional(shapes := {key: file.shape(key) for key in file}):
        return positional_keys(file.path, shapes)
    keys = {key: parse_key(key) for key in file if is_adapter_key(key)}
    names = {key.tensor for key in keys.values() if key}
    if not names - {"weight", "alpha", "scale"}:  # any model has a "weight"
        raise UserError(f"{file.path} is not a LoRA: choose one in the format of kohya, LyCORIS or diffusers.")
    if unsupported := sorted({UNSUPPORTED[name] for name in names if name in UNSUPPORTED}):
        raise UserError(
            f"{file.path} is {' and '.join(unsupported)}, which is not supported: use LoRA, LoHa, LoKr or DoRA."
        )
    if unknown := [key for key, parsed in keys.items() if parsed is None]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{file.path} is a LoRA of an unsupported kind (it has {unknown[0]}{more}): use LoRA, LoHa, LoKr or DoRA."
        )
    return {key: parsed for key, parsed in keys.items() if parsed}


def _adapter(path: Path, module: str, tensors: dict[str, torch.Tensor], config: Mapping[str, Any]) -> Adapter:
    adapter = make_adapter(tensors) if all(map(_has_valid_size, tensors, tensors.values())) else None
    if adapter is None:
        names = ", ".join(tensors)
        raise UserError(f"{path} is damaged or a LoRA of an unsupported kind: {module} has {names}. Use another file.")
    if adapter.size is None and not isinstance(adapter, IA3):
        raise UserError(f"{path} is damaged: the shapes of {module} don't match. Download or copy it again.")
    if adapter.size and adapter.dora_scale is not None and not could_be_magnitude(adapter.dora_scale, adapter.size):
        rows, columns = adapter.size
        raise UserError(
            f"{path} is damaged: the DoRA magnitudes of {module} have the shape {tuple(adapter.dora_scale.shape)}, "
            f"which fits neither its {rows} rows nor its {columns} columns. Download or copy it again."
        )
    if adapter.alpha is None and adapter.rank:
        try:
            adapter.alpha = peft_alpha(config, module, adapter.rank)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path} has invalid lora_adapter_metadata ({error}). Use another file.") from error
    return adapter


def _require_finite(path: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    broken = [module for module, own in tensors.items() if not all(map(is_finite, own.values()))]
    if broken:
        raise UserError(
            f"{path} is damaged: it has NaN or infinite values in {len(broken)} of {count(len(tensors), 'module')} "
            f"({broken[0]}{', ...' if len(broken) > 1 else ''}), as after a training that diverged. Use an earlier "
            "save of it, or another file."
        )


def _has_valid_size(name: str, tensor: torch.Tensor) -> bool:
    return tensor.numel() == 1 if name in ("alpha", "scale", "on_input") else tensor.dim() > 0 and tensor.numel() > 0


def _peft_config(file: Tensors) -> Mapping[str, Any]:
    """peft's LoraConfig as stored by diffusers, by ``component.setting``; {} when there is none."""
    try:
        config = json.loads(file.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file.path} has metadata (lora_adapter_metadata) that is not JSON ({error}). Use another file."
        ) from error
    return config if isinstance(config, dict) else {}
