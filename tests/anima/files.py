"""Anima with few channels and random weights, in the files in which it is published."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dreambooth.models.anima.names import TransformerNames
from dreambooth.models.anima.sizes import make_adapter
from dreambooth.models.qwen.autoencoder import QwenVaeNames
from dreambooth.tensor_files import write_tensors
from tests.zimage.files import Files

PREFIX, NET = "model.diffusion_model.", "net."
TRANSFORMER: dict[str, Any] = {
    "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 18, "num_layers": 2,
    "mlp_ratio": 2.0, "text_embed_dim": 20, "adaln_lora_dim": 6, "max_size": (128, 240, 240), "patch_size": (1, 2, 2),
    "rope_scale": (1.0, 4.0, 4.0), "concat_padding_mask": True, "extra_pos_embed_type": None,
}  # fmt: skip
ADAPTER: dict[str, Any] = {
    "source_dim": 16, "target_dim": 20, "model_dim": 24, "num_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2.0,
    "target_vocab_size": 32128,
}  # fmt: skip
QWEN: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": True,
}  # fmt: skip
VAE: dict[str, Any] = {
    "base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}  # fmt: skip


def resize_zeros_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' module resizes its padding mask, which is zero everywhere, with torchvision, if that is installed."""
    from diffusers.models.transformers import transformer_cosmos

    functional = SimpleNamespace(resize=lambda mask, size, interpolation: mask.new_zeros(*mask.shape[:2], *size))
    transforms = SimpleNamespace(functional=functional, InterpolationMode=SimpleNamespace(NEAREST=""))
    monkeypatch.setattr(transformer_cosmos, "transforms", transforms, raising=False)


def make_modules() -> dict[str, Any]:
    """The four modules in float32, by component name: diffusers' and transformers' classes, and the adapter."""
    from diffusers import AutoencoderKLQwenImage, CosmosTransformer3DModel
    from transformers import Qwen3Config, Qwen3Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = make_adapter(ADAPTER).to_empty(device="cpu")
        for name, parameter in adapter.named_parameters():
            is_norm = "norm" in name
            nn.init.normal_(parameter, mean=float(is_norm), std=0.1 if is_norm or parameter.dim() == 1 else 0.3)
        modules: dict[str, Any] = {
            "text_conditioner": adapter,
            "transformer": CosmosTransformer3DModel(**TRANSFORMER),
            "text_encoder": Qwen3Model(Qwen3Config(**QWEN)),
            "vae": AutoencoderKLQwenImage(**VAE),
        }
        nn.init.normal_(modules["text_encoder"].get_parameter("embed_tokens.weight"))
    return modules


def write(folder: Path, prefix: str = NET, name: str = "anima.safetensors") -> Files:
    """The files in half precision, as WebUIs keep them. ``prefix``: of the transformer's tensors."""
    files = Files(folder / name, folder / "qwen_3_06b_base.safetensors", folder / "qwen_image_vae.safetensors")
    for source, target in zip(_written(), files, strict=True):
        shutil.copyfile(source, target)
    if prefix != NET:
        write_tensors(files.transformer, {prefix + key: value for key, value in native_transformer().items()})
    return files


def whole_file(path: Path) -> Path:
    """All three in one file, as ComfyUI saves it."""
    parts = {PREFIX: native_transformer(), "vae.": native_vae(),
             "text_encoders.qwen3_06b.transformer.model.": dict(_half()["text_encoder"])}  # fmt: skip
    write_tensors(path, {prefix + key: value for prefix, part in parts.items() for key, value in part.items()})
    return path


def native_transformer() -> dict[str, torch.Tensor]:
    """The tensors of the transformer's file, with the adapter."""
    adapter = {f"llm_adapter.{key}": value for key, value in _half()["text_conditioner"].items()}
    return {**_original(_half()["transformer"], TransformerNames()), **adapter}


def native_vae() -> dict[str, torch.Tensor]:
    return _original(_half()["vae"], QwenVaeNames(VAE["num_res_blocks"]))


def _original(weights: dict[str, torch.Tensor], names: Any) -> dict[str, torch.Tensor]:
    return {names.to_original(name): value for name, value in weights.items()}


@functools.cache
def _half() -> dict[str, dict[str, torch.Tensor]]:
    return {name: {k: v.half() for k, v in module.state_dict().items()} for name, module in make_modules().items()}


@functools.cache
def _written() -> Files:
    folder = Path(tempfile.mkdtemp())
    files = Files(folder / "transformer", folder / "text_encoder", folder / "vae")
    write_tensors(files.transformer, {NET + key: value for key, value in native_transformer().items()})
    write_tensors(files.text_encoder, {f"model.{key}": value for key, value in _half()["text_encoder"].items()})
    write_tensors(files.vae, native_vae())
    return files
