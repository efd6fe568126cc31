"""The Stable Diffusion 2.x families, including inpainting models.

The 512 px models predict noise, the 768 px models velocity. Their tensors have the same names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dreambooth.models.family import Configs
from dreambooth.models.layout import ComponentLayout, Layout, Shapes, strip_prefix
from dreambooth.models.sd.adapter_names import TEXT_ENCODER_SPELLING, unet_spelling
from dreambooth.models.sd.clip_names import OpenClipNameMap
from dreambooth.models.sd.keys import INPAINTING_CHANNELS, UNET, conv_in_channels, has_label_embedding
from dreambooth.models.sd.ldm_names import unet_names
from dreambooth.models.sd.sd1 import MAX_CONTEXT_WIDTH
from dreambooth.models.sd.sizes import clip_config, open_clip_sizes
from dreambooth.models.sd.stable_diffusion import (
    UNET_COMPONENT,
    VAE_COMPONENT,
    StableDiffusion,
    text_encoder,
    vae_layout,
)
from dreambooth.settings.creation import FAMILIES

TEXT = "cond_stage_model.model."
_LAYER = "transformer.resblocks.{}."


class StableDiffusion2(StableDiffusion):
    """Use the instances :data:`SD2_768` and :data:`SD2_512`."""

    adapter_title, adapter_version = "Stable Diffusion 2", "sd_v2"
    components = (UNET_COMPONENT, VAE_COMPONENT, text_encoder(TEXT))

    def __init__(self, model_type: str, prediction: str, sample_size: int, version: str, architecture: str):
        self.model_type, self.default_prediction, self.sample_size = model_type, prediction, sample_size
        self.base_model_version, self.base_architecture = version, architecture
        self.title = FAMILIES[model_type]

    def matches(self, shapes: Shapes) -> bool:
        to_k = shapes.get(UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight", ())
        has_text = any(key.startswith(TEXT) for key in shapes)
        other_text = any(key.startswith(("cond_stage_model.transformer.", "conditioner.")) for key in shapes)
        is_plain = conv_in_channels(shapes) in (4, INPAINTING_CHANNELS) and not has_label_embedding(shapes)
        return is_plain and (has_text or to_k[-1:] == (1024,)) and not other_text

    def matches_folder(self, configs: Configs) -> bool:
        unet = configs.get("unet", {})
        is_plain = unet.get("in_channels") in (4, INPAINTING_CHANNELS) and not unet.get("addition_embed_type")
        # Small models of this architecture have linear projections, unlike v1.
        is_v2 = unet.get("cross_attention_dim", 0) > MAX_CONTEXT_WIDTH or unet.get("use_linear_projection")
        fits = is_plain and is_v2 and self.default_prediction == _prediction(configs)
        return bool(fits) and "text_encoder_2" not in configs and "text_encoder" in configs and "vae" in configs

    def layout(self, configs: Configs) -> Layout:
        text = OpenClipNameMap(configs["text_encoder"]["num_hidden_layers"], has_projection=False)
        return Layout(
            [
                ComponentLayout(UNET_COMPONENT, unet_names(configs["unet"]), unet_spelling("modules", "original")),
                vae_layout(configs),
                ComponentLayout(self.component("text_encoder"), text, TEXT_ENCODER_SPELLING),
            ],
            self.ema_prefix,
        )

    def filler_tensors(self, shapes: Shapes, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """The unused last text layer as zeros; projection and logit scale as open_clip initializes them."""
        sizes = open_clip_sizes(strip_prefix(shapes, TEXT))
        first, last = _LAYER.format(0), _LAYER.format(sizes["num_hidden_layers"])
        layer = {
            TEXT + name.replace(first, last, 1): torch.zeros(shape, dtype=torch.float16)
            for name, shape in strip_prefix(shapes, TEXT).items()
            if name.startswith(first)
        }
        width = sizes["hidden_size"]
        return {
            **layer,
            TEXT + "text_projection": torch.eye(width, dtype=torch.float16),
            TEXT + "logit_scale": torch.tensor(math.log(1 / 0.07), dtype=torch.float16),
        }

    def _unet_config(self, shapes: Shapes, overrides: Mapping[str, Any]) -> dict[str, Any]:
        upcast = self.default_prediction == "v_prediction"
        return {**super()._unet_config(shapes, overrides), "upcast_attention": upcast}

    def _text_config(self, component: str, shapes: Shapes, overrides: Mapping[str, Any]) -> dict[str, Any]:
        sizes = open_clip_sizes(shapes)
        # The unet uses the penultimate layer, so the module of transformers ends there.
        sizes |= {"num_hidden_layers": sizes["num_hidden_layers"] - 1, "projection_dim": sizes["hidden_size"]}
        return clip_config(sizes, max(1, sizes["hidden_size"] // 64), "gelu", overrides[component])


def _prediction(configs: Configs) -> str:
    return configs.get("scheduler", {}).get("prediction_type", "epsilon")


SD2_768 = StableDiffusion2("v2x", "v_prediction", 96, "sd_v2_v", "stable-diffusion-v2-768-v")
SD2_512 = StableDiffusion2("v2x-512", "epsilon", 64, "sd_v2", "stable-diffusion-v2-512")
