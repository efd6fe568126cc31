"""FLUX.1 with few channels and random weights, in the files in which it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.models.flux.names import TransformerNames
from dreambooth.models.sd.ldm_names import vae_names
from tests.flow_models.files import Files, ModelFiles, Weights, original

WIDTH = 64
BLOCKS: dict[str, Any] = {
    "in_channels": 64, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 16, "axes_dims_rope": (4, 14, 14),
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CLIP: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 1,
    "eos_token_id": 2, "projection_dim": 64,
}  # fmt: skip
VAE: dict[str, Any] = {
    "latent_channels": 16, "block_out_channels": [32] * 4, "layers_per_block": 1, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip
_SAME_AS_SHARED = "encoder.embed_tokens.weight"  # T5's embedding has two names in transformers


class FluxFiles(ModelFiles):
    title = "FLUX.1"
    names = Files(Path("flux1-dev.safetensors"), Path("clip_l.safetensors"), Path("ae.safetensors"),
                  Path("t5xxl_fp16.safetensors"))  # fmt: skip
    embedding = "text_encoder_2", "shared.weight"

    def make_modules(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL, FluxTransformer2DModel
        from transformers import CLIPTextConfig, CLIPTextModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            modules: dict[str, Any] = {
                "transformer": FluxTransformer2DModel(**BLOCKS, pooled_projection_dim=64, guidance_embeds=True),
                "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP)),
                "text_encoder_2": make_t5(),
                "vae": AutoencoderKL(**VAE),
            }
            randomize(modules["transformer"])
        return modules

    def native_transformer(self) -> Weights:
        return original(self.half["transformer"], TransformerNames(WIDTH))

    def native_vae(self) -> Weights:
        return native_vae(self.half["vae"])

    def text_files(self) -> dict[str, Weights]:
        clip = {f"text_model.{key.removeprefix('text_model.')}": v for key, v in self.half["text_encoder"].items()}
        return {"text_encoder": clip, "text_encoder_2": t5_file(self.half["text_encoder_2"])}

    def text_parts(self) -> dict[str, Weights]:
        clip, t5 = self.text_files().values()
        return {"text_encoders.clip_l.transformer.": clip, "text_encoders.t5xxl.transformer.": t5}


def make_t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**T5))


def t5_file(weights: Weights) -> Weights:
    return {key: value for key, value in weights.items() if key != _SAME_AS_SHARED}


def randomize(module: nn.Module) -> None:
    """Modulations and biases start at values without any effect."""
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)


def native_vae(weights: Weights) -> Weights:
    """With the names of the original code; the attention's layers are 1x1 convolutions there."""
    is_conv = (".mid.attn_1.q", ".mid.attn_1.k", ".mid.attn_1.v", ".mid.attn_1.proj_out")
    return {
        key: value[:, :, None, None] if any(f"{part}.weight" in key for part in is_conv) else value
        for key, value in original(weights, vae_names(VAE)).items()
    }


FLUX1 = FluxFiles()
