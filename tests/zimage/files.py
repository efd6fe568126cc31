"""Z-Image with few channels and random weights, in the files in which it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.models.sd.ldm_names import vae_names
from dreambooth.models.zimage.names import TransformerNames
from tests.flow_models.files import QWEN, Files, ModelFiles, Weights, original

TRANSFORMER: dict[str, Any] = {
    "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16,
    "axes_dims": [4, 6, 6], "axes_lens": [1536, 512, 512],
}  # fmt: skip
VAE: dict[str, Any] = {
    "latent_channels": 16, "block_out_channels": [32] * 4, "layers_per_block": 1, "norm_num_groups": 32,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
}  # fmt: skip
_UNUSED = "norm_final.weight"


class ZImageFiles(ModelFiles):
    title = "Z-Image"
    names = Files(Path("z_image.safetensors"), Path("qwen_3_4b.safetensors"), Path("ae.safetensors"))
    text_prefix = "text_encoders.qwen3_4b.transformer.model."

    def make_modules(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL, ZImageTransformer2DModel
        from transformers import Qwen3Config, Qwen3Model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            modules: dict[str, Any] = {
                "transformer": ZImageTransformer2DModel(**TRANSFORMER),
                "text_encoder": Qwen3Model(Qwen3Config(**{**QWEN, "num_hidden_layers": 3})),
                "vae": AutoencoderKL(**VAE),
            }
            for name, parameter in modules["transformer"].named_parameters():
                if name.endswith("pad_token"):
                    nn.init.zeros_(parameter)  # older diffusers leave them without values
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
            nn.init.normal_(modules["text_encoder"].get_parameter("embed_tokens.weight"))
        return modules

    def native_transformer(self) -> Weights:
        """Query, key and value are one, and a tensor is unused."""
        tensors = original(self.half["transformer"], TransformerNames())
        return {**tensors, _UNUSED: torch.ones(TRANSFORMER["dim"]).half()}

    def native_vae(self) -> Weights:
        """With the names of the original code; the attention's layers are 1x1 convolutions there."""
        tensors = original(self.half["vae"], vae_names(VAE))
        is_conv = (".mid.attn_1.q", ".mid.attn_1.k", ".mid.attn_1.v", ".mid.attn_1.proj_out")
        return {
            key: value[:, :, None, None] if any(f"{part}.weight" in key for part in is_conv) else value
            for key, value in tensors.items()
        }

    def is_used(self, component: str, name: str) -> bool:
        return name != _UNUSED


Z_IMAGE = ZImageFiles()
