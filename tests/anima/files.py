"""Anima with few channels and random weights, in the files in which it is published."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dreambooth.models.anima.names import TransformerNames
from dreambooth.models.anima.sizes import make_adapter
from dreambooth.models.qwen.autoencoder import QwenVaeNames
from tests.flow_models.files import QWEN, Files, ModelFiles, Weights, original

TRANSFORMER: dict[str, Any] = {
    "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 18, "num_layers": 2,
    "mlp_ratio": 2.0, "text_embed_dim": 20, "adaln_lora_dim": 6, "max_size": (128, 240, 240), "patch_size": (1, 2, 2),
    "rope_scale": (1.0, 4.0, 4.0), "concat_padding_mask": True, "extra_pos_embed_type": None,
}  # fmt: skip
ADAPTER: dict[str, Any] = {
    "source_dim": 16, "target_dim": 20, "model_dim": 24, "num_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2.0,
    "target_vocab_size": 32128,
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


class AnimaFiles(ModelFiles):
    """The adapter is in the transformer's file."""

    title = "Anima"
    names = Files(Path("anima.safetensors"), Path("qwen_3_06b_base.safetensors"), Path("qwen_image_vae.safetensors"))
    prefix = "net."
    text_prefix = "text_encoders.qwen3_06b.transformer.model."

    def make_modules(self) -> dict[str, Any]:
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

    def native_transformer(self) -> Weights:
        adapter = {f"llm_adapter.{key}": value for key, value in self.half["text_conditioner"].items()}
        return {**original(self.half["transformer"], TransformerNames()), **adapter}

    def native_vae(self) -> Weights:
        return original(self.half["vae"], QwenVaeNames(VAE["num_res_blocks"]))


ANIMA = AnimaFiles()
