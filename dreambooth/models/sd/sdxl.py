"""The Stable Diffusion XL family: two text encoders, size conditioning of the unet, 1024 px.

Derived models that predict velocity have an empty tensor named ``v_pred``, those with a zero terminal SNR schedule
(arXiv:2305.08891) one named ``ztsnr``; Forge and its forks check for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dreambooth.models.family import Configs
from dreambooth.models.layout import ComponentLayout, Layout, Shapes
from dreambooth.models.sd.adapter_names import (
    SDXL_TITLE,
    TEXT_ENCODER_1_SPELLING,
    TEXT_ENCODER_2_SPELLING,
    unet_spelling,
)
from dreambooth.models.sd.clip_conditioner import SDXLConditioner
from dreambooth.models.sd.clip_names import PROJECTION, OpenClipNameMap, TransformersNameMap
from dreambooth.models.sd.keys import INPAINTING_CHANNELS, UNET, V_PREDICTION, ZERO_SNR, conv_in_channels
from dreambooth.models.sd.ldm_names import unet_names
from dreambooth.models.sd.sizes import clip_config, open_clip_sizes, transformers_text_sizes
from dreambooth.models.sd.stable_diffusion import (
    UNET_COMPONENT,
    VAE_COMPONENT,
    StableDiffusion,
    text_encoder,
    vae_layout,
)
from dreambooth.models.sd.tokens import PromptEncoding
from dreambooth.settings.creation import FAMILIES

TEXT_1 = "conditioner.embedders.0.transformer."
TEXT_2 = "conditioner.embedders.1.model."


class StableDiffusionXL(StableDiffusion):
    """Use the instance :data:`SDXL`."""

    model_type = "SDXL"
    title = FAMILIES["SDXL"]
    usual_size = 2_567_463_684, 817_720_320, 1024
    base_model_version = "sdxl_base_v1-0"
    adapter_title, adapter_version = SDXL_TITLE, "sdxl"
    base_architecture = "stable-diffusion-xl-v1-base"
    implementation = "https://github.com/Stability-AI/generative-models"
    pipeline = "StableDiffusionXL{}Pipeline"
    components = (UNET_COMPONENT, VAE_COMPONENT, text_encoder(TEXT_1, 1), text_encoder(TEXT_2, 2))
    vae_scaling_factor = 0.13025
    sample_size = 128

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: PromptEncoding
    ) -> SDXLConditioner:
        return SDXLConditioner(text_encoders, tokenizers, prompt_encoding)

    def matches(self, shapes: Shapes) -> bool:
        is_refiner = any(key.startswith("conditioner.embedders.0.model.") for key in shapes)
        has_label = UNET + "label_emb.0.0.weight" in shapes
        has_text = any(key.startswith((TEXT_1, TEXT_2)) for key in shapes)
        has_channels = conv_in_channels(shapes) in (4, INPAINTING_CHANNELS)
        return has_channels and (has_label or has_text) and not is_refiner

    def matches_folder(self, configs: Configs) -> bool:
        unet = configs.get("unet", {})
        is_xl = unet.get("in_channels") in (4, INPAINTING_CHANNELS) and unet.get("addition_embed_type") == "text_time"
        return is_xl and all(part in configs for part in self.component_names)

    def layout(self, configs: Configs) -> Layout:
        text_2 = OpenClipNameMap(configs["text_encoder_2"]["num_hidden_layers"], has_projection=True)
        return Layout(
            [
                # Unet adapters are written with the original names: some WebUIs map a few names of diffusers wrongly.
                ComponentLayout(UNET_COMPONENT, unet_names(configs["unet"]), unet_spelling("original", "modules")),
                vae_layout(configs),
                ComponentLayout(self.component("text_encoder"), TransformersNameMap(), TEXT_ENCODER_1_SPELLING),
                ComponentLayout(self.component("text_encoder_2"), text_2, TEXT_ENCODER_2_SPELLING),
            ],
            self.ema_prefix,
        )

    def filler_tensors(self, shapes: Shapes, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        scale = torch.tensor(math.log(1 / 0.07), dtype=torch.float16)
        return {TEXT_2 + "logit_scale": scale, **self.marker_tensors(scheduler)}

    def marker_tensors(self, scheduler: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        markers = {
            V_PREDICTION: scheduler.get("prediction_type") == "v_prediction",
            ZERO_SNR: scheduler.get("rescale_betas_zero_snr", False),
        }
        return {key: torch.empty(0) for key, is_set in markers.items() if is_set}

    def _index_extras(self) -> dict[str, Any]:
        absent = {name: [None, None] for name in ("feature_extractor", "image_encoder")}
        second = {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        }
        return {"force_zeros_for_empty_prompt": True, "add_watermarker": False, **absent, **second}

    def _unet_config(self, shapes: Shapes, overrides: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **super()._unet_config(shapes, overrides),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": overrides["unet"].get("addition_time_embed_dim", 256),
            "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
        }

    def _vae_config(self, shapes: Shapes, overrides: Mapping[str, Any], latent_size: int) -> dict[str, Any]:
        return {**super()._vae_config(shapes, overrides, latent_size), "force_upcast": True}

    def _text_config(self, component: str, shapes: Shapes, overrides: Mapping[str, Any]) -> dict[str, Any]:
        if component == "text_encoder":
            return clip_config(transformers_text_sizes(shapes), 12, "quick_gelu", overrides[component])
        sizes = open_clip_sizes(shapes)
        if PROJECTION not in shapes:
            raise KeyError(PROJECTION)
        config = clip_config(sizes, max(1, sizes["hidden_size"] // 64), "gelu", overrides[component])
        return config | {"architectures": ["CLIPTextModelWithProjection"]}


SDXL = StableDiffusionXL()
