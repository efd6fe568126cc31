"""The base class of Stable Diffusion families: configs of the components, derived from tensor shapes.

What shapes don't determine (attention heads, group counts, noise schedule) is the family's default, unless the source
has its own values: a single file in its metadata under :data:`CONFIG_KEY`, a diffusers folder in its configs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.errors import UserError
from dreambooth.models.capabilities import DDPM, Capabilities
from dreambooth.models.components import DENOISER, TEXT_ENCODER, Component
from dreambooth.models.components import VAE as VAE_ROLE
from dreambooth.models.family import Configs, Family
from dreambooth.models.latents import LatentCodec
from dreambooth.models.layout import ComponentLayout, Shapes, strip_prefix
from dreambooth.models.process import DDPM as DDPMProcess
from dreambooth.models.recognition import Recognition
from dreambooth.models.sd.adapters import StableDiffusionAdapters
from dreambooth.models.sd.clip_conditioner import ClipConditioner, cached_bytes, without_clip_skip
from dreambooth.models.sd.clip_module import clip_name_on_disk, make_clip, position_ids
from dreambooth.models.sd.component_files import component_keys
from dreambooth.models.sd.declared_config import CONFIG_FIELDS, config_overrides
from dreambooth.models.sd.keys import (
    CONFIG_KEY,
    EMA,
    INPAINTING_CHANNELS,
    LATENT_CHANNELS,
    UNET,
    VAE,
    ZERO_SNR,
    ZERO_SNR_SCHEDULE,
    conv_in_channels,
)
from dreambooth.models.sd.ldm_config import ENDING
from dreambooth.models.sd.ldm_config_writing import config_to_write
from dreambooth.models.sd.ldm_names import vae_names
from dreambooth.models.sd.prediction import with_prediction
from dreambooth.models.sd.recognition import recognize
from dreambooth.models.sd.size_estimates import size_estimate
from dreambooth.models.sd.sizes import unet_sizes, vae_sizes
from dreambooth.models.sd.tokenizer import load_tokenizer, write_tokenizer
from dreambooth.models.sd.tokens import PromptEncoding
from dreambooth.models.sd.unet_denoiser import UNetDenoiser
from dreambooth.models.sd.vae_spellings import current_vae_name
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.settings import Settings
from dreambooth.tensor_files import Tensors
from dreambooth.text import count

DIFFUSERS_VERSION = "0.30.3"  # the oldest supported version, which can read these configs

PIXELS_PER_LATENT = 8  # of a side

UNET_COMPONENT = Component("unet", DENOISER, "UNet", UNET)
VAE_COMPONENT = Component("vae", VAE_ROLE, "VAE", VAE)


def text_encoder(prefix: str, number: int = 0) -> Component:
    """CLIP's text encoder with this prefix in the single file. ``number``: 1 or 2, where a family has two."""
    suffix = "_2" if number == 2 else ""
    title = f"text encoder {number}" if number else "text encoder"
    return Component(
        f"text_encoder{suffix}", TEXT_ENCODER, title, prefix, "model.safetensors", f"tokenizer{suffix}",
        disk_name=clip_name_on_disk,
    )  # fmt: skip


def vae_layout(configs: Configs) -> ComponentLayout:
    return ComponentLayout(VAE_COMPONENT, vae_names(configs["vae"]))


class StableDiffusion(StableDiffusionAdapters):
    """What all versions of Stable Diffusion share."""

    base_architecture: str  # modelspec.architecture
    pipeline = "StableDiffusion{}Pipeline"  # diffusers' pipeline class; {} is "" or "Inpaint"
    ema_prefix = EMA
    vae_scaling_factor = 0.18215
    sample_size = 64  # side of the latents at the native resolution
    default_prediction = "epsilon"
    capabilities = Capabilities(DDPM, {"clip_skip": "always uses the text encoder layer that it was trained with"})
    checkpoint_implementation = "https://github.com/Stability-AI/generative-models"

    @property
    def supports_clip_skip(self) -> bool:
        """Whether WebUIs apply clip skip to this family."""
        return "clip_skip" not in self.capabilities.without_effect

    # -- components --------------------------------------------------------------------------------------------

    def make_module(self, name: str, config: Mapping[str, Any]) -> nn.Module:
        values = {key: value for key, value in config.items() if not key.startswith("_")}
        role = self.component(name).role
        if role == TEXT_ENCODER:
            return make_clip(values)
        import diffusers

        with torch.device("meta"):
            if role == VAE_ROLE:
                return _activate_in_place(diffusers.AutoencoderKL(**values))
            return diffusers.UNet2DConditionModel(**values)

    def rebuild_buffer(self, name: str, buffer: torch.Tensor) -> torch.Tensor:
        return position_ids(buffer) if name.endswith("position_ids") else super().rebuild_buffer(name, buffer)

    def load_tokenizer(self, folder: Path) -> Any:
        return load_tokenizer(folder)

    def write_tokenizers(self, working: Path, configs: Configs) -> None:
        for component in self.text_encoders:
            length = configs[component.name]["max_position_embeddings"]
            is_open_clip = not component.prefix.endswith("transformer.")
            write_tokenizer(working / component.tokenizer, length, open_clip=is_open_clip)

    # -- recognizing --------------------------------------------------------------------------------------------

    def recognize(self, file: Tensors, families: Sequence[Family], prediction: str) -> Recognition:
        return recognize(file, families, prediction)

    def with_prediction(self, metadata: Mapping[str, str], prediction: str) -> dict[str, str]:
        return with_prediction(metadata, prediction)

    def current_name(self, component: str, name: str) -> str:
        return current_vae_name(name) if component == VAE_COMPONENT.name else super().current_name(component, name)

    def inpaints(self, shapes: Shapes) -> bool:
        return conv_in_channels(shapes) > LATENT_CHANNELS

    def component_keys(self, component: Component, file: Tensors) -> dict[str, str]:
        return component_keys(component, file, len(self.text_encoders))

    def required_prefixes(self, shapes: Shapes) -> dict[str, str]:
        parts = super().required_prefixes(shapes)
        if any(key.startswith(VAE) for key in shapes):  # some checkpoints were saved with half of it
            parts.pop(VAE)
            parts |= {f"{VAE}{half}.": f"VAE {half}" for half in ("encoder", "decoder")}
        return parts

    # -- configs ------------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        overrides = config_overrides(metadata)
        try:
            unet = {**self._unet_config(strip_prefix(shapes, UNET), overrides)}
            vae = self._vae_config(strip_prefix(shapes, VAE), overrides, unet["sample_size"])
            texts = {
                component.name: self._text_config(component.name, strip_prefix(shapes, component.prefix), overrides)
                for component in self.text_encoders
            }
        except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
            raise UserError(
                f"it is not a complete {self.title} checkpoint ({error} is missing or invalid, or it mixes model "
                "families): use another file"
            ) from error
        width = sum(text["hidden_size"] for text in texts.values())
        if unet["cross_attention_dim"] != width:
            raise UserError(
                f"its UNet expects text embeddings of width {unet['cross_attention_dim']}, its text encoder has width "
                f"{width}: it mixes model families. Use another file"
            )
        if vae["latent_channels"] != unet["out_channels"]:
            raise UserError(
                f"its UNet has latents of {count(unet['out_channels'], 'channel')}, its VAE of "
                f"{vae['latent_channels']}: the VAE is that of another model family. Use another VAE"
            )
        return {"unet": unet, "vae": vae, **texts}

    def config_metadata(self, configs: Configs) -> dict[str, str]:
        overrides: dict[str, Any] = {
            part: {name: configs[part][name] for name in fields if configs[part].get(name) is not None}
            for part, fields in CONFIG_FIELDS.items()
            if part in configs
        }
        size = configs["unet"].get("sample_size") or self.sample_size
        overrides["sample_size"] = max(size) if isinstance(size, list) else size
        if "scheduler" in configs:
            overrides["prediction_type"] = configs["scheduler"].get("prediction_type", "epsilon")
        return {CONFIG_KEY: json.dumps(overrides)}

    def native_resolution(self, configs: Configs) -> int:
        return int(configs["unet"].get("sample_size", 0)) * PIXELS_PER_LATENT

    def variants(self, configs: Configs) -> list[str]:
        return ["inpainting"] if configs["unet"].get("in_channels") == INPAINTING_CHANNELS else []

    def size_estimate(self, n_denoiser: int) -> SizeEstimate:
        return size_estimate(n_denoiser)

    def sidecar(self, working: Path, source: Path) -> tuple[str, bytes] | None:
        text = config_to_write(working, source, self.model_type)
        return None if text is None else (ENDING, text)

    def latent_codec(self, vae: Mapping[str, Any]) -> LatentCodec:
        downscale = 2 ** (len(vae["block_out_channels"]) - 1)
        return LatentCodec(vae["latent_channels"], downscale, scale=vae["scaling_factor"])

    def model_index(self, configs: Configs) -> dict[str, Any]:
        """With the family as an extra entry, since diffusers' class name is ambiguous."""
        is_inpainting = configs["unet"]["in_channels"] == INPAINTING_CHANNELS
        parts = {
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        return {
            "_class_name": self.pipeline.format("Inpaint" if is_inpainting else ""),
            "_diffusers_version": DIFFUSERS_VERSION,
            "_dreambooth_family": self.model_type,
            **self._index_extras(),
            **parts,
        }

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        """A checkpoint with the tensor ``ztsnr`` was trained with zero terminal SNR (arXiv:2305.08891)."""
        is_zero = ZERO_SNR in shapes and prediction_type == "v_prediction"
        return {
            "_class_name": "DDIMScheduler",
            "_diffusers_version": DIFFUSERS_VERSION,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "prediction_type": prediction_type,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "skip_prk_steps": True,  # for PNDM
            **config_overrides(metadata)["scheduler"],
            **(ZERO_SNR_SCHEDULE if is_zero else {}),
        }

    def process(self, scheduler: Mapping[str, Any], device: torch.device | str = "cpu") -> DDPMProcess:
        return DDPMProcess(scheduler, device)

    def architecture(self, denoiser: Mapping[str, Any]) -> str:
        is_inpainting = denoiser["in_channels"] == INPAINTING_CHANNELS
        return self.base_architecture + ("-inpainting" if is_inpainting else "")

    def modelspec_values(self, prediction_type: str, clip_skip: int) -> dict[str, str]:
        return {
            "modelspec.prediction_type": "v" if prediction_type == "v_prediction" else "epsilon",
            "modelspec.encoder_layer": str(clip_skip if self.supports_clip_skip else 2),
        }

    # -- conditioning and prediction ---------------------------------------------------------------------------

    def prompt_encoding(self, settings: Settings | None = None, training: bool = False) -> PromptEncoding:
        return PromptEncoding.of(settings, training) if settings else PromptEncoding()

    def text_conditioner(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: PromptEncoding
    ) -> ClipConditioner:
        if not self.supports_clip_skip:
            prompt_encoding = without_clip_skip(prompt_encoding)
        return ClipConditioner(text_encoders, tokenizers, prompt_encoding)

    def embedding_bytes(self, configs: Configs, n_tokens: int) -> int:
        texts = [configs[component.name] for component in self.text_encoders]
        pooled = texts[-1]["projection_dim"] if len(texts) > 1 else 0
        return cached_bytes(n_tokens, sum(text["hidden_size"] for text in texts), pooled)

    def make_denoiser(self, module: Any) -> UNetDenoiser:
        return UNetDenoiser(module)

    def extra_channels(self, denoiser: Mapping[str, Any]) -> int:
        return denoiser["in_channels"] - LATENT_CHANNELS

    # -- overridden by subclasses ------------------------------------------------------------------------------

    def _index_extras(self) -> dict[str, Any]:
        absent = {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
        return {"requires_safety_checker": False, **absent}

    def _heads(self, channels: list[int]) -> int | list[int]:
        """Attention heads of the unet, for all levels or per level. Families after SD1 have 64 channels per head."""
        return [max(1, n // 64) for n in channels]

    def _unet_config(self, shapes: Shapes, overrides: Mapping[str, Any]) -> dict[str, Any]:
        config = unet_sizes(shapes)
        heads = self._heads(config["block_out_channels"])
        return {
            "_class_name": "UNet2DConditionModel",
            "_diffusers_version": DIFFUSERS_VERSION,
            "sample_size": overrides.get("sample_size", self.sample_size),
            **config,
            # diffusers' name for the number of heads, a historical mistake
            "attention_head_dim": overrides["unet"].get("attention_head_dim", heads),
            "norm_num_groups": overrides["unet"].get("norm_num_groups", 32),
            "act_fn": "silu",
        }

    def _vae_config(self, shapes: Shapes, overrides: Mapping[str, Any], latent_size: int) -> dict[str, Any]:
        config = vae_sizes(shapes)
        n_levels = len(config["block_out_channels"])
        return {
            "_class_name": "AutoencoderKL",
            "_diffusers_version": DIFFUSERS_VERSION,
            "sample_size": latent_size * 2 ** (n_levels - 1),
            **config,
            "norm_num_groups": overrides["vae"].get("norm_num_groups", 32),
            "act_fn": "silu",
            "scaling_factor": overrides["vae"].get("scaling_factor", self.vae_scaling_factor),
        }

    def _text_config(self, component: str, shapes: Shapes, overrides: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


def _activate_in_place(vae: nn.Module) -> nn.Module:
    """Activations of a VAE that is never trained overwrite their inputs, which are outputs of norms.

    At the size of the image each such input takes as much memory as the decoder's weights. Modules are replaced, not
    changed: older diffusers shares one among all models.
    """
    for module in vae.modules():
        for name, child in module.named_children():
            if type(child) is nn.SiLU:
                setattr(module, name, nn.SiLU(inplace=True))
    return vae
