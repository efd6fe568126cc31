"""The base class of Stable Diffusion families: configs of the components, derived from tensor shapes.

What shapes don't determine (attention heads, group counts, noise schedule) is the family's default, unless the source
has its own values: a single file in its metadata under :data:`CONFIG_KEY`, a diffusers folder in its configs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from dreambooth.checkpoints.layout import Layout, strip_prefix
from dreambooth.checkpoints.sizes import Shapes, unet_sizes, vae_sizes
from dreambooth.errors import UserError

CONFIG_KEY = "dreambooth.config"

DIFFUSERS_VERSION = "0.30.3"  # the oldest supported version, which can read these configs

PREDICTION_TYPES = ("epsilon", "v_prediction")

UNET = "model.diffusion_model."
VAE = "first_stage_model."
EMA = "model_ema."

V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"  # names of empty tensors that mark a checkpoint
ZERO_SNR_SCHEDULE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}

INPAINTING_CHANNELS = 9  # noisy latents (4), the mask (1), latents of the masked image (4)

Configs = Mapping[str, Mapping[str, Any]]

# Config fields that shapes don't determine, read from the source's own configs.
_CONFIG_FIELDS = {
    "unet": ("attention_head_dim", "norm_num_groups", "addition_time_embed_dim"),
    "vae": ("norm_num_groups", "scaling_factor"),
    "text_encoder": ("num_attention_heads", "hidden_act"),
    "text_encoder_2": ("num_attention_heads", "hidden_act"),
    "scheduler": ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "rescale_betas_zero_snr",
                  "timestep_spacing"),
}  # fmt: skip


class StableDiffusion:
    """A model family. Subclasses override what differs; instances are stateless."""

    model_type: str  # as in db_config.json
    title: str
    components: tuple[str, ...] = ("unet", "vae", "text_encoder")
    base_model_version: str  # kohya's ss_base_model_version
    base_architecture: str  # modelspec.architecture
    implementation = "diffusers"  # modelspec.implementation of LoRAs
    pipeline = "StableDiffusion{}Pipeline"  # diffusers' pipeline class; {} is "" or "Inpaint"
    ema_prefix = EMA
    text_prefixes: Mapping[str, str] = MappingProxyType({})  # component -> prefix in the single file
    supports_clip_skip = False  # whether WebUIs apply clip skip to this family
    has_pooled_conditioning = False  # whether the unet also takes a pooled text embedding and size conditioning
    vae_scaling_factor = 0.18215
    sample_size = 64  # side of the latents at the native resolution
    default_prediction = "epsilon"

    # -- recognizing ------------------------------------------------------------------------------------------

    def matches(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors belongs to this family, even if it is incomplete."""
        raise NotImplementedError

    def matches_folder(self, configs: Configs) -> bool:
        """The same for a diffusers folder, from the configs of its components."""
        raise NotImplementedError

    def missing(self, shapes: Shapes) -> list[str]:
        """Descriptions of the components that the file lacks."""
        texts = {prefix: f"text encoder{'' if len(self.text_prefixes) == 1 else f' {number}'}"
                 for number, prefix in enumerate(self.text_prefixes.values(), 1)}  # fmt: skip
        parts: dict[str, str] = {UNET: "unet", VAE: "VAE", **texts}
        if any(key.startswith(VAE) for key in shapes):  # some checkpoints were saved with half of it
            parts.pop(VAE)
            parts |= {f"{VAE}{half}.": f"VAE {half}" for half in ("encoder", "decoder")}
        present = {prefix for prefix in parts if any(key.startswith(prefix) for key in shapes)}
        return [f"{name} ({prefix}*)" for prefix, name in parts.items() if prefix not in present]

    # -- configs ----------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Configs (diffusers, transformers) of the components, from original tensor names and shapes.

        UserError when a tensor that determines a size is missing, or when the components don't match each other.
        """
        overrides = _config_overrides(metadata)
        try:
            unet = {**self._unet_config(strip_prefix(shapes, UNET), overrides)}
            vae = self._vae_config(strip_prefix(shapes, VAE), overrides, unet["sample_size"])
            texts = {
                component: self._text_config(component, strip_prefix(shapes, prefix), overrides)
                for component, prefix in self.text_prefixes.items()
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
        return {"unet": unet, "vae": vae, **texts}

    def config_metadata(self, configs: Configs) -> dict[str, str]:
        """The configs of a diffusers folder as metadata for :meth:`configs`.

        Like :meth:`matches_folder` and :meth:`layout` it may raise any exception when the configs are malformed.
        """
        overrides: dict[str, Any] = {
            part: {name: configs[part][name] for name in fields if configs[part].get(name) is not None}
            for part, fields in _CONFIG_FIELDS.items()
            if part in configs
        }
        size = configs["unet"].get("sample_size") or self.sample_size
        overrides["sample_size"] = max(size) if isinstance(size, list) else size
        if "scheduler" in configs:
            overrides["prediction_type"] = configs["scheduler"].get("prediction_type", "epsilon")
        return {CONFIG_KEY: json.dumps(overrides)}

    def layout(self, configs: Configs) -> Layout:
        raise NotImplementedError

    def filler_tensors(self, shapes: Shapes, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors that diffusers folders lack and strict readers of single files expect. They don't affect images."""
        return {}

    def marker_tensors(self, scheduler: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Empty tensors that tell WebUIs the prediction type and noise schedule of a checkpoint."""
        return {}

    def model_index(self, unet: Mapping[str, Any]) -> dict[str, Any]:
        """The model_index.json of diffusers, with the family as an extra entry: the class name is ambiguous."""
        is_inpainting = unet["in_channels"] == INPAINTING_CHANNELS
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
        """The scheduler config with the noise schedule that the model was trained with.

        A checkpoint with the tensor ``ztsnr`` was trained with zero terminal SNR (arXiv:2305.08891).
        """
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
            **_config_overrides(metadata)["scheduler"],
            **(ZERO_SNR_SCHEDULE if is_zero else {}),
        }

    def architecture(self, unet: Mapping[str, Any]) -> str:
        """The value of modelspec.architecture."""
        is_inpainting = unet["in_channels"] == INPAINTING_CHANNELS
        return self.base_architecture + ("-inpainting" if is_inpainting else "")

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


def conv_in_channels(shapes: Shapes) -> int:
    """Input channels of the unet: 4, or 9 for inpainting; 0 without a unet."""
    shape = shapes.get(UNET + "input_blocks.0.0.weight", ())
    return shape[1] if len(shape) > 1 else 0


def has_label_embedding(shapes: Shapes) -> bool:
    """Whether the unet takes a vector conditioning besides the text, as in SDXL and unCLIP."""
    return any(key.startswith(UNET + "label_emb.") for key in shapes)


def declared_prediction(metadata: Mapping[str, str]) -> str:
    """The prediction type in the source's own config; "" if it has none. UserError for an unknown one."""
    return _config_overrides(metadata).get("prediction_type", "")


_NO_OVERRIDES: dict[str, Any] = {part: {} for part in _CONFIG_FIELDS}


def _config_overrides(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The source's own config values, validated. UserError when one is invalid."""
    overrides = copy.deepcopy(_NO_OVERRIDES)
    try:
        declared = json.loads(metadata.get(CONFIG_KEY, "{}"))
        for part, fields in _CONFIG_FIELDS.items():
            values = declared.get(part, {}).items()
            overrides[part] = {name: _validated(name, value) for name, value in values if name in fields}
        if "sample_size" in declared:
            overrides["sample_size"] = size = int(declared["sample_size"])
            if not 8 <= size <= 256:
                raise ValueError(f"sample_size {size} is outside 8 to 256")
        if "prediction_type" in declared:
            overrides["prediction_type"] = prediction_type = str(declared["prediction_type"])
            if prediction_type not in PREDICTION_TYPES:
                raise ValueError(f"prediction_type {prediction_type} is not {' or '.join(PREDICTION_TYPES)}")
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"its config (metadata {CONFIG_KEY} of a file, config.json of a folder) has an invalid value: {error}"
        ) from error
    return overrides


_CHOICES = {
    "hidden_act": ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"),
    "beta_schedule": ("scaled_linear", "linear"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def _validated(name: str, value: Any) -> Any:
    """The value converted to the type of the config field ``name``; ValueError or TypeError when it is invalid."""
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} {value} is not one of {', '.join(_CHOICES[name])}")
        return value
    if name == "rescale_betas_zero_snr":
        return bool(value)
    if name in ("beta_start", "beta_end", "scaling_factor"):
        number = float(value)
        if not 0 < number < 100:
            raise ValueError(f"{name} {value} is not between 0 and 100")
        return number
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else int(value)
