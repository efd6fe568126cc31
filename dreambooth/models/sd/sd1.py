"""The Stable Diffusion 1.x family, including inpainting models.

The layout is that of CompVis' original code, the values are those of the published v1 configs. A model of the same
architecture with fewer channels belongs to the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.models.capabilities import DDPM, Capabilities
from dreambooth.models.family import Configs
from dreambooth.models.layout import ComponentLayout, Layout, Shapes
from dreambooth.models.sd.adapter_names import TEXT_ENCODER_SPELLING, unet_spelling
from dreambooth.models.sd.clip_names import TransformersNameMap
from dreambooth.models.sd.keys import INPAINTING_CHANNELS, UNET, conv_in_channels, has_label_embedding
from dreambooth.models.sd.ldm_names import unet_names
from dreambooth.models.sd.sizes import clip_config, transformers_text_sizes
from dreambooth.models.sd.stable_diffusion import (
    UNET_COMPONENT,
    VAE_COMPONENT,
    StableDiffusion,
    text_encoder,
    vae_layout,
)
from dreambooth.settings.creation import FAMILIES

MAX_CONTEXT_WIDTH = 768  # of the text embeddings; later families have 1024 or more

TEXT = "cond_stage_model.transformer."


class StableDiffusion1(StableDiffusion):
    """Use the instance :data:`SD1`."""

    model_type = "v1x"
    title = FAMILIES["v1x"]
    usual_size = 859_520_964, 123_060_480, 512
    base_model_version = "sd_v1"
    adapter_title, adapter_version = "Stable Diffusion 1.x", "sd_v1"
    base_architecture = "stable-diffusion-v1"
    components = (UNET_COMPONENT, VAE_COMPONENT, text_encoder(TEXT))
    capabilities = Capabilities(DDPM)

    def matches(self, shapes: Shapes) -> bool:
        to_k = shapes.get(UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight", ())
        other_text = any(key.startswith(("cond_stage_model.model.", "conditioner.")) for key in shapes)
        is_plain = conv_in_channels(shapes) in (4, INPAINTING_CHANNELS) and not has_label_embedding(shapes)
        return is_plain and to_k[-1:] <= (MAX_CONTEXT_WIDTH,) and not other_text

    def matches_folder(self, configs: Configs) -> bool:
        unet = configs.get("unet", {})
        has_channels = unet.get("in_channels") in (4, INPAINTING_CHANNELS)
        # Small models of later architectures have narrow text embeddings too, but linear projections.
        is_later = unet.get("addition_embed_type") or unet.get("use_linear_projection")
        fits = has_channels and unet.get("cross_attention_dim", 0) <= MAX_CONTEXT_WIDTH and not is_later
        return fits and "text_encoder_2" not in configs and "text_encoder" in configs and "vae" in configs

    def layout(self, configs: Configs) -> Layout:
        return Layout(
            [
                ComponentLayout(UNET_COMPONENT, unet_names(configs["unet"]), unet_spelling("modules", "original")),
                vae_layout(configs),
                ComponentLayout(self.component("text_encoder"), TransformersNameMap(), TEXT_ENCODER_SPELLING),
            ],
            self.ema_prefix,
        )

    def _heads(self, channels: list[int]) -> int | list[int]:
        return 8

    def _text_config(self, component: str, shapes: Shapes, overrides: Mapping[str, Any]) -> dict[str, Any]:
        return clip_config(transformers_text_sizes(shapes), 12, "quick_gelu", overrides[component])


SD1 = StableDiffusion1()
