"""A very small model of every family, with random weights in the original single-file layout.

The names come from our own tables, which tests/checkpoints compares with the published models.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from dreambooth import actions
from dreambooth.models.family import Family
from dreambooth.models.layout import Layout, TensorRef, ema_key
from dreambooth.models.registry import FAMILIES
from dreambooth.models.sd.keys import CONFIG_KEY, EMA, UNET
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import write_tensors

CONFIG_OVERRIDES = {
    "unet": {"attention_head_dim": [2, 4], "norm_num_groups": 8, "addition_time_embed_dim": 8},
    "vae": {"norm_num_groups": 8},
    "text_encoder": {"num_attention_heads": 4},
    "text_encoder_2": {"num_attention_heads": 4},
    "sample_size": 8,
}
_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


def make(path: Path, model_type: str, **how: Any) -> Path:
    """Write one; ``how`` as for :func:`_write`. The same again is a copy of the first."""
    shutil.copyfile(_made(model_type, tuple(sorted(how.items()))), path)
    return path


def create(folders: Folders, name: str, model_type: str, **how: Any) -> ModelFolder:
    """The model ``name``, created from such a file. The same again is a copy of the first."""
    model = ModelFolder(folders, name)
    shutil.copytree(_created(name, model_type, tuple(sorted(how.items()))).root, model.root)
    return model


@functools.cache
def _made(model_type: str, how: tuple[tuple[str, Any], ...]) -> Path:
    return _write(_new_folder() / "mini.safetensors", model_type, **dict(how))


@functools.cache
def _created(name: str, model_type: str, how: tuple[tuple[str, Any], ...]) -> ModelFolder:
    model = ModelFolder(Folders(_new_folder()), name)
    actions.create(model.folders, name, _made(model_type, how))
    return model


@functools.cache
def _cache() -> tempfile.TemporaryDirectory[str]:
    """It is there as long as this process."""
    return tempfile.TemporaryDirectory(prefix="mini-models-")


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(dir=_cache().name))


def _write(
    path: Path,
    model_type: str,
    *,
    inpainting: bool = False,
    v_pred: bool = False,
    ztsnr: bool = False,
    declare_prediction: bool = True,
    ema: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float16,
    **overrides: object,
) -> Path:
    """Write a model file. ``declare_prediction``: with the prediction type as metadata. ``ema``: with EMA weights."""
    family = next(family for family in FAMILIES if family.model_type == model_type)
    configs = _configs(family, 9 if inpainting else 4)
    generator = torch.Generator().manual_seed(seed)
    tensors = _tensors(family, family.layout(configs), configs, generator, dtype)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    # Tensors that modules don't have get random values too, so that losing them is detected.
    filler_tensors = family.filler_tensors(shapes, {}).items()
    tensors |= {key: torch.rand(filler.shape, generator=generator).to(dtype) for key, filler in filler_tensors}
    tensors |= {key: torch.empty(0) for key, marked in (("v_pred", v_pred), ("ztsnr", ztsnr)) if marked}
    if model_type == "SDXL":
        tensors["denoiser.sigmas"] = torch.rand(1000, generator=generator)
        tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    else:
        tensors |= {"betas": _BETAS.float(), "alphas_cumprod": torch.cumprod(1 - _BETAS, 0).float()}
    if model_type == "v1x":
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if ema:
        tensors |= _ema_weights(tensors)
    metadata: dict[str, object] = dict(CONFIG_OVERRIDES)
    if declare_prediction and not v_pred:
        metadata["prediction_type"] = family.default_prediction
    metadata |= overrides
    write_tensors(path, tensors, {CONFIG_KEY: json.dumps(metadata), "format": "pt"})
    return path


def _tensors(
    family: Family, layout: Layout, configs: dict, generator: torch.Generator, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Random weights with a scale that preserves the magnitude of activations."""
    tensors = {}
    for component in family.component_names:
        for name, shape in (
            family.component(component).disk_shapes(family.make_module(component, configs[component])).items()
        ):
            original = layout.original(TensorRef(component, name))
            assert original, name
            key, tensor_slice = original
            if key in tensors:
                continue
            parts = [_random(name, shape, generator) for _ in tensor_slice.refs]
            tensors[key] = tensor_slice.transform.join(parts).to(dtype)
    return tensors


def _ema_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """EMA weights as the original code saves them: fp32, and two counters."""
    unet = {key.removeprefix(UNET): tensor for key, tensor in tensors.items() if key.startswith(UNET)}
    counters = {"decay": torch.tensor(0.9999), "num_updates": torch.tensor(7, dtype=torch.int32)}
    ema_weights = {ema_key(EMA, name): tensor.float() * 0.5 for name, tensor in unet.items()}
    return ema_weights | {EMA + name: counter for name, counter in counters.items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        around = 1.0 if name.endswith("weight") else 0.0
        return around + 0.05 * torch.randn(shape, generator=generator)
    fan_in = shape[1:].numel() if isinstance(shape, torch.Size) else torch.Size(shape[1:]).numel()
    return torch.randn(shape, generator=generator) * (1.0 if "embed" in name and len(shape) == 2 else fan_in**-0.5)


def _configs(family: Family, in_channels: int) -> dict[str, dict]:
    is_xl, wide = family.model_type == "SDXL", family.model_type != "v1x"
    unet = {
        "sample_size": 8, "in_channels": in_channels, "out_channels": 4, "block_out_channels": [16, 32],
        "layers_per_block": 1, "down_block_types": ["DownBlock2D" if is_xl else "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D" if is_xl else
        "CrossAttnUpBlock2D"], "cross_attention_dim": 48 if is_xl else 32, "attention_head_dim": [2, 4],
        "norm_num_groups": 8, "use_linear_projection": wide,
    }  # fmt: skip
    if is_xl:
        unet |= {"transformer_layers_per_block": [1, 2], "addition_embed_type": "text_time",
                 "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8}  # fmt: skip
    vae = {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1, "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 8,
    }  # fmt: skip
    text = {
        "vocab_size": 49408, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 77, "projection_dim": 32,
    }  # fmt: skip
    second = {**text, "hidden_size": 16, "projection_dim": 16, "architectures": ["CLIPTextModelWithProjection"]}
    return {"unet": unet, "vae": vae, "text_encoder": text, **({"text_encoder_2": second} if is_xl else {})}
