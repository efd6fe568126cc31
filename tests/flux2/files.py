"""FLUX.2 klein with few channels and random weights, in the files in which it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.models.flux2.autoencoder import VaeNames
from dreambooth.models.flux2.names import TransformerNames
from tests.flow_models.files import QWEN, Files, ModelFiles, Weights, original

TRANSFORMER: dict[str, Any] = {
    "in_channels": 128, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 48, "timestep_guidance_channels": 32, "axes_dims_rope": (4, 4, 4, 4),
    "guidance_embeds": False,
}  # fmt: skip
VAE: dict[str, Any] = {
    "latent_channels": 32, "block_out_channels": [32] * 4, "layers_per_block": 1, "norm_num_groups": 32,
}  # fmt: skip
_N_LAYERS = 30  # of the text encoder, of which 28 are loaded
_UNUSED = ("layers.28.", "layers.29.", "bn.num_batches_tracked")


class KleinFiles(ModelFiles):
    title = "FLUX.2 klein 4B"
    names = Files(
        Path("flux-2-klein-base-4b.safetensors"), Path("qwen_3_4b.safetensors"), Path("flux2-vae.safetensors")
    )
    text_prefix = "text_encoders.qwen3_4b.transformer.model."

    def make_modules(self) -> dict[str, Any]:
        from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
        from transformers import Qwen3Config, Qwen3Model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            modules: dict[str, Any] = {
                "transformer": Flux2Transformer2DModel(**TRANSFORMER),
                "text_encoder": Qwen3Model(Qwen3Config(**{**QWEN, "num_hidden_layers": _N_LAYERS})),
                "vae": AutoencoderKLFlux2(**VAE),
            }
            for parameter in modules["transformer"].parameters():
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
            nn.init.normal_(modules["text_encoder"].get_parameter("embed_tokens.weight"))
            modules["vae"].bn.running_mean.normal_()
            modules["vae"].bn.running_var.uniform_(0.5, 3)
        return modules

    def native_transformer(self) -> Weights:
        return original(self.half["transformer"], TransformerNames())

    def native_vae(self) -> Weights:
        """As Black Forest Labs publishes it."""
        inner = {"quant_conv.": "encoder.quant_conv.", "post_quant_conv.": "decoder.post_quant_conv."}
        return {
            next((new + key.removeprefix(old) for old, new in inner.items() if key.startswith(old)), key): value
            for key, value in self.vae_of_whole_file().items()
        }

    def vae_of_whole_file(self) -> Weights:
        """As other programs have it. The attention's layers are 1x1 convolutions."""
        weights = {key: value for key, value in self.half["vae"].items() if self.is_used("vae", key)}
        tensors = original(weights, VaeNames(VAE))
        for key, value in tensors.items():
            is_layer = ".mid.attn_1." in key and key.endswith(".weight")
            tensors[key] = value[:, :, None, None] if is_layer and value.dim() == 2 else value
        return {**tensors, "bn.num_batches_tracked": torch.tensor(7)}

    def is_used(self, component: str, name: str) -> bool:
        return not name.startswith(_UNUSED)


KLEIN = KleinFiles()
