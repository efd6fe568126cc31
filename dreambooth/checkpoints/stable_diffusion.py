"""What all families of Stable Diffusion share: configs made of the sizes that the tensors' shapes tell.

What shapes can't tell (heads, group counts, the noise schedule) is the family's own unless the source says otherwise:
a single file in its metadata under :data:`CONFIG_KEY`, a diffusers folder in its configs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from dreambooth.checkpoints.layout import Layout, under
from dreambooth.checkpoints.sizes import Shapes, unet_sizes, vae_sizes
from dreambooth.errors import UserError

CONFIG_KEY = "dreambooth.config"

DIFFUSERS_VERSION = "0.30.3"  # the oldest that is supported reads these configs as they are

PREDICTION_TYPES = ("epsilon", "v_prediction")

UNET = "model.diffusion_model."
VAE = "first_stage_model."
EMA = "model_ema."

INPAINTING_CHANNELS = 9  # noisy latents, the mask, latents of what the mask leaves

Configs = Mapping[str, Mapping[str, Any]]

# What of a diffusers folder's configs counts, since shapes don't say it.
_TOLD = {
    "unet": ("attention_head_dim", "norm_num_groups", "addition_time_embed_dim"),
    "vae": ("norm_num_groups", "scaling_factor"),
    "text_encoder": ("num_attention_heads", "hidden_act"),
    "text_encoder_2": ("num_attention_heads", "hidden_act"),
    "scheduler": ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "rescale_betas_zero_snr",
                  "timestep_spacing"),
}  # fmt: skip


class StableDiffusion:
    """A family. Subclasses state what is theirs; an instance holds no state."""

    model_type: str  # db_config.json's
    title: str
    components: tuple[str, ...] = ("unet", "vae", "text_encoder")
    base_model_version: str  # kohya's ss_base_model_version
    base_architecture: str  # modelspec's name
    implementation = "diffusers"  # modelspec's name for the code that runs a LoRA of this family
    pipeline = "StableDiffusion{}Pipeline"  # diffusers' class; {}: "" or "Inpaint"
    ema_prefix = EMA
    text_prefixes: Mapping[str, str] = MappingProxyType({})  # component -> prefix in the single file
    supports_clip_skip = False  # whether WebUIs let people choose the text encoder's layer
    pooled = False  # whether the unet is also told the pooled text embedding and the picture's sizes
    vae_scaling_factor = 0.18215
    sample_size = 64  # latents' side that it was made for
    default_prediction = "epsilon"

    # -- recognising ------------------------------------------------------------------------------------------

    def matches(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors is of this family, complete or not."""
        raise NotImplementedError

    def matches_folder(self, configs: Configs) -> bool:
        """The same for a diffusers folder, by its components' configs."""
        raise NotImplementedError

    def missing(self, shapes: Shapes) -> list[str]:
        """Components that the file lacks, in words."""
        texts = {prefix: f"text encoder{'' if len(self.text_prefixes) == 1 else f' {number}'}"
                 for number, prefix in enumerate(self.text_prefixes.values(), 1)}  # fmt: skip
        parts = {UNET: "unet", VAE: "VAE", **texts}
        there = {prefix for prefix in parts if any(key.startswith(prefix) for key in shapes)}
        return [f"{name} ({prefix}*)" for prefix, name in parts.items() if prefix not in there]

    # -- configs ----------------------------------------------------------------------------------------------

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """diffusers' and transformers' configs of the components, from original names and shapes.

        UserError when a tensor that tells a size is missing, or when the components don't belong together.
        """
        facts = _facts(metadata)
        try:
            unet = {**self._unet_config(under(shapes, UNET), facts)}
            vae = self._vae_config(under(shapes, VAE), facts, unet["sample_size"])
            texts = {
                component: self._text_config(component, under(shapes, prefix), facts)
                for component, prefix in self.text_prefixes.items()
            }
        except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
            raise UserError(
                f"it is not a whole {self.title} checkpoint ({error} is missing or odd; parts of different families, "
                "perhaps): use another file"
            ) from error
        width = sum(text["hidden_size"] for text in texts.values())
        if unet["cross_attention_dim"] != width:
            raise UserError(
                f"its unet reads text embeddings of width {unet['cross_attention_dim']}, its text encoder gives "
                f"{width}: parts of different families were put together. Use another file"
            )
        return {"unet": unet, "vae": vae, **texts}

    def prediction_type(self, shapes: Shapes, metadata: Mapping[str, str]) -> str | None:
        """What the file itself says that its unet predicts; None when it says nothing."""
        said = _facts(metadata).get("prediction_type")
        if said:
            return str(said)
        return {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}.get(
            metadata.get("modelspec.prediction_type", "")
        )

    def config_metadata(self, configs: Configs) -> dict[str, str]:
        """A diffusers folder's configs as metadata that :meth:`configs` understands.

        Like :meth:`matches_folder` and :meth:`layout` it may end in any exception when the configs are not diffusers'.
        """
        facts: dict[str, Any] = {
            part: {name: configs[part][name] for name in wanted if configs[part].get(name) is not None}
            for part, wanted in _TOLD.items()
            if part in configs
        }
        size = configs["unet"].get("sample_size") or self.sample_size
        facts["sample_size"] = max(size) if isinstance(size, list) else size
        facts["prediction_type"] = configs.get("scheduler", {}).get("prediction_type", "epsilon")
        return {CONFIG_KEY: json.dumps(facts)}

    def layout(self, configs: Configs) -> Layout:
        raise NotImplementedError

    def filler_tensors(self, shapes: Shapes, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors that the original file has and a diffusers folder lacks, so that strict readers open what we write.

        None of them takes part in drawing.
        """
        return {}

    def marker_tensors(self, scheduler: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Empty tensors by which WebUIs know what a checkpoint with this noise schedule predicts."""
        return {}

    def model_index(self, unet: Mapping[str, Any]) -> dict[str, Any]:
        """diffusers' model_index.json. The one extra entry says the family, which the class name alone does not."""
        inpaints = unet["in_channels"] == INPAINTING_CHANNELS
        parts = {
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        return {
            "_class_name": self.pipeline.format("Inpaint" if inpaints else ""),
            "_diffusers_version": DIFFUSERS_VERSION,
            "_dreambooth_family": self.model_type,
            **self._index_extras(),
            **parts,
        }

    def scheduler_config(self, prediction_type: str, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The noise schedule that the model was trained with."""
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
            **_facts(metadata)["scheduler"],
        }

    def architecture(self, unet: Mapping[str, Any]) -> str:
        """modelspec's name for the model."""
        inpaints = unet["in_channels"] == INPAINTING_CHANNELS
        return self.base_architecture + ("-inpainting" if inpaints else "")

    # -- what subclasses fill in ------------------------------------------------------------------------------

    def _index_extras(self) -> dict[str, Any]:
        absent = {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
        return {"requires_safety_checker": False, **absent}

    def _heads(self, channels: list[int]) -> int | list[int]:
        """Attention heads of the unet, for all levels or for each. Later families have 64 channels to a head."""
        return [max(1, n // 64) for n in channels]

    def _unet_config(self, shapes: Shapes, facts: Mapping[str, Any]) -> dict[str, Any]:
        config = unet_sizes(shapes)
        return {
            "_class_name": "UNet2DConditionModel",
            "_diffusers_version": DIFFUSERS_VERSION,
            "sample_size": facts.get("sample_size", self.sample_size),
            **config,
            # diffusers' name for the number of heads, by an old mistake of its own
            "attention_head_dim": facts["unet"].get("attention_head_dim", self._heads(config["block_out_channels"])),
            "norm_num_groups": facts["unet"].get("norm_num_groups", 32),
            "act_fn": "silu",
        }

    def _vae_config(self, shapes: Shapes, facts: Mapping[str, Any], latent_size: int) -> dict[str, Any]:
        config = vae_sizes(shapes)
        n_levels = len(config["block_out_channels"])
        return {
            "_class_name": "AutoencoderKL",
            "_diffusers_version": DIFFUSERS_VERSION,
            "sample_size": latent_size * 2 ** (n_levels - 1),
            **config,
            "norm_num_groups": facts["vae"].get("norm_num_groups", 32),
            "act_fn": "silu",
            "scaling_factor": facts["vae"].get("scaling_factor", self.vae_scaling_factor),
        }

    def _text_config(self, component: str, shapes: Shapes, facts: Mapping[str, Any]) -> dict[str, Any]:
        raise NotImplementedError


def conv_in_channels(shapes: Shapes) -> int:
    """Channels that the unet takes: 4, or 9 for inpainting; 0 without a unet."""
    shape = shapes.get(UNET + "input_blocks.0.0.weight", ())
    return shape[1] if len(shape) > 1 else 0


def has_label_embedding(shapes: Shapes) -> bool:
    """Whether the unet is told more than the text: SDXL's is, and unCLIP's."""
    return any(key.startswith(UNET + "label_emb.") for key in shapes)


_NOTHING_TOLD: dict[str, Any] = {part: {} for part in _TOLD}


def _facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the source says of its build, checked. UserError when that makes no sense."""
    facts = copy.deepcopy(_NOTHING_TOLD)
    try:
        said = json.loads(metadata.get(CONFIG_KEY, "{}"))
        for part, names in _TOLD.items():
            facts[part] = {name: _sane(name, value) for name, value in said.get(part, {}).items() if name in names}
        if "sample_size" in said:
            facts["sample_size"] = int(said["sample_size"])
            if not 8 <= facts["sample_size"] <= 256:
                raise ValueError(f"sample_size {facts['sample_size']} is outside 8 to 256")
        if "prediction_type" in said:
            facts["prediction_type"] = str(said["prediction_type"])
            if facts["prediction_type"] not in PREDICTION_TYPES:
                raise ValueError(f"prediction_type {facts['prediction_type']} is not {' or '.join(PREDICTION_TYPES)}")
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"what it says about its build ({CONFIG_KEY} in a file's metadata, config.json in a folder) "
            f"can't be used: {error}"
        ) from error
    return facts


_TEXTS = {
    "hidden_act": ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"),
    "beta_schedule": ("scaled_linear", "linear"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def _sane(name: str, value: Any) -> Any:
    """The value as what ``name`` needs; ValueError or TypeError when it can't be."""
    if name in _TEXTS:
        if value not in _TEXTS[name]:
            raise ValueError(f"{name} {value} is none of {', '.join(_TEXTS[name])}")
        return value
    if name == "rescale_betas_zero_snr":
        return bool(value)
    if name in ("beta_start", "beta_end", "scaling_factor"):
        number = float(value)
        if not 0 < number < 100:
            raise ValueError(f"{name} {value} is not above 0")
        return number
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else int(value)
