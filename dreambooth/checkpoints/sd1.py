"""Stable Diffusion 1.x: everything that differs from other families.

The layout is that of CompVis' original code; the numbers are those of the published v1 configs. Sizes are read off
the tensors' shapes, so that a model of the same build with fewer channels is the same family. What shapes can't tell
(heads, group counts) is v1's unless the file's metadata says otherwise under :data:`FACTS_KEY`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dreambooth.checkpoints.ldm_names import Names, Place, unet_names, vae_names
from dreambooth.errors import UserError

FACTS_KEY = "dreambooth.config"

DIFFUSERS_VERSION = "0.30.3"  # the oldest that is supported reads these configs as they are

PREDICTION_TYPES = ("epsilon", "v_prediction")

WIDEST_CONTEXT = 768  # width of the text embeddings that the unet reads; later families have 1024 and more

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
EMA = "model_ema."

Shapes = Mapping[str, tuple[int, ...]]


class StableDiffusion1:
    """The family's facts; an instance holds no state, :data:`SD1` is the one to use."""

    model_type = "v1x"
    title = "Stable Diffusion 1.x"
    components: tuple[str, ...] = ("unet", "vae", "text_encoder")
    base_model_version = "sd_v1"  # kohya's ss_base_model_version
    architecture = "stable-diffusion-v1"  # modelspec's name
    implementation = "diffusers"  # modelspec's name for the code that runs a LoRA of this family
    lora_prefixes: Mapping[str, str] = MappingProxyType({"unet": "lora_unet", "text_encoder": "lora_te"})
    ema_prefix = EMA

    def claims(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors is of this family, complete or not."""
        conv_in = shapes.get(UNET + "input_blocks.0.0.weight", ())
        to_k = shapes.get(UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight", (0, 0))
        other_text = any(key.startswith(("cond_stage_model.model.", "conditioner.")) for key in shapes)
        return conv_in[1:2] == (4,) and to_k[-1:] <= (WIDEST_CONTEXT,) and not other_text

    def claims_folder(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """The same for a diffusers folder, by its components' configs."""
        unet = configs.get("unet", {})
        fits = unet.get("in_channels") == 4 and unet.get("cross_attention_dim", 0) <= WIDEST_CONTEXT
        return fits and "text_encoder_2" not in configs and "text_encoder" in configs and "vae" in configs

    def missing(self, shapes: Shapes) -> list[str]:
        """Components that the file lacks, in words."""
        parts = {UNET: "unet", VAE: "VAE", TEXT: "text encoder"}
        return [
            f"{name} ({prefix}*)" for prefix, name in parts.items() if not any(key.startswith(prefix) for key in shapes)
        ]

    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """diffusers' and transformers' configs of the components, from original names and shapes.

        UserError when a tensor that tells a size is missing.
        """
        facts = _facts(metadata)
        try:
            unet = _unet_config(_under(shapes, UNET), facts)
            vae = _vae_config(_under(shapes, VAE), facts, unet["sample_size"])
            return {"unet": unet, "vae": vae, "text_encoder": _text_config(_text_shapes(shapes), facts)}
        except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
            raise UserError(f"it is not a whole {self.title} checkpoint: {error} is missing or odd") from error

    def prediction_type(self, metadata: Mapping[str, str]) -> str:
        """epsilon, unless the metadata says otherwise: tensors can't."""
        return _facts(metadata)["prediction_type"]

    def facts_of(self, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """A diffusers folder's configs as metadata that :meth:`configs` understands.

        Like :meth:`claims_folder` and :meth:`layout` it may end in any exception when the configs are not diffusers'.
        """
        names = {
            "unet": ("attention_head_dim", "norm_num_groups"),
            "vae": ("norm_num_groups",),
            "text_encoder": ("num_attention_heads",),
        }
        facts: dict[str, Any] = {
            part: {name: configs[part][name] for name in wanted if name in configs[part]}
            for part, wanted in names.items()
        }
        size = configs["unet"].get("sample_size") or 64
        facts["sample_size"] = max(size) if isinstance(size, list) else size
        facts["prediction_type"] = configs.get("scheduler", {}).get("prediction_type", "epsilon")
        return {FACTS_KEY: json.dumps(facts)}

    def layout(self, configs: Mapping[str, Mapping[str, Any]]) -> Layout:
        return Layout(unet_names(configs["unet"]), vae_names(configs["vae"]))

    def model_index(self) -> dict[str, Any]:
        """diffusers' model_index.json. The one extra entry says the family, which the class name alone does not."""
        parts = {
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        absent = {name: [None, None] for name in ("feature_extractor", "image_encoder", "safety_checker")}
        return {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": DIFFUSERS_VERSION,
            "_dreambooth_family": self.model_type,
            "requires_safety_checker": False,
            **absent,
            **parts,
        }

    def scheduler_config(self, prediction_type: str = "epsilon") -> dict[str, Any]:
        """The noise schedule that the family was trained with."""
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
        }


SD1 = StableDiffusion1()


class Layout:
    """Original names to places in a diffusers folder and back, for one model's sizes."""

    def __init__(self, unet: Names, vae: Names):
        self._unet, self._vae = unet, vae

    def place(self, key: str) -> Place | None:
        """Where the tensor lives, None for what diffusers' modules don't carry (schedules, position ids)."""
        if key.startswith(UNET):
            return _placed("unet", self._unet.to_diffusers(key.removeprefix(UNET)))
        if key.startswith(VAE):
            return _placed("vae", self._vae.to_diffusers(key.removeprefix(VAE)))
        if key.startswith(TEXT) and not key.endswith("position_ids"):
            # Some merges were saved without the inner prefix; every loader of SD1 puts it back.
            return Place("text_encoder", "text_model." + key.removeprefix(TEXT).removeprefix("text_model."))
        return None

    def key(self, place: Place) -> str | None:
        """The original name of a diffusers tensor, None when the original has no such tensor."""
        if place.component == "text_encoder":
            return TEXT + place.name
        if place.component == "ema_unet":
            name = self._unet.to_original(place.name)
            return name and ema_key(name)
        names, prefix = {"unet": (self._unet, UNET), "vae": (self._vae, VAE)}[place.component]
        name = names.to_original(place.name)
        return name and prefix + name

    def adapter_names(self, place: Place) -> tuple[str, ...]:
        """How files of adapters (LoRA and its kin) may name the module of a weight; the first is what we write."""
        module = place.name.rpartition(".")[0]
        if place.component == "unet":
            original = self._unet.to_original(module)
            names = [f"lora_unet_{module}", *([f"lora_unet_{original}"] if original else [])]
        elif place.component == "text_encoder":
            names = [f"lora_te_{module}", f"lora_te1_{module}"]
        else:
            names = []
        return tuple(name.replace(".", "_") for name in names)

    def key_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape a diffusers tensor has in the original: the VAE's attention is 1x1 convolutions there."""
        is_attention = key.startswith(VAE) and ".attn_1." in key and len(shape) == 2
        return (*shape, 1, 1) if is_attention else shape


def ema_key(unet_name: str) -> str:
    """The averaged twin's name: the original code drops all dots from the module path."""
    return EMA + f"diffusion_model.{unet_name}".replace(".", "")


def _placed(component: str, name: str | None) -> Place | None:
    return None if name is None else Place(component, name)


def _under(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _text_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix("text_model."): shape for key, shape in _under(shapes, TEXT).items()}


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    """The numbers that a name's one group takes, ascending."""
    found = {int(match[1]) for key in shapes if (match := re.fullmatch(pattern, key))}
    return sorted(found)


def _facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What shapes can't tell: v1's own numbers, overlaid with the file's."""
    facts: dict[str, Any] = {
        "unet": {"attention_head_dim": 8, "norm_num_groups": 32},
        "vae": {"norm_num_groups": 32},
        "text_encoder": {"num_attention_heads": 12},
        "sample_size": 64,
        "prediction_type": "epsilon",
    }
    try:
        said = json.loads(metadata.get(FACTS_KEY, "{}"))
        for part in ("unet", "vae", "text_encoder"):
            facts[part] |= {name: int(said.get(part, {}).get(name, value)) for name, value in facts[part].items()}
        facts["sample_size"] = int(said.get("sample_size", facts["sample_size"]))
        facts["prediction_type"] = str(said.get("prediction_type", facts["prediction_type"]))
        _require_sense(facts)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"what it says about its build ({FACTS_KEY} in a file's metadata, config.json in a folder) "
            f"can't be used: {error}"
        ) from error
    return facts


def _require_sense(facts: Mapping[str, Any]) -> None:
    if facts["prediction_type"] not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type {facts['prediction_type']} is not {' or '.join(PREDICTION_TYPES)}")
    if not 8 <= facts["sample_size"] <= 256:
        raise ValueError(f"sample_size {facts['sample_size']} is outside 8 to 256")


def _unet_config(shapes: Shapes, facts: Mapping[str, Any]) -> dict[str, Any]:
    resnets = _numbers(shapes, r"input_blocks\.(\d+)\.0\.in_layers\.2\.weight")
    n_levels = 1 + len(_numbers(shapes, r"input_blocks\.(\d+)\.0\.op\.weight"))
    n_layers = len(resnets) // n_levels
    levels = [resnets[level * n_layers : (level + 1) * n_layers] for level in range(n_levels)]
    attends = [f"input_blocks.{level[0]}.1.norm.weight" in shapes for level in levels]
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": facts["sample_size"],
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": [shapes[f"input_blocks.{i[-1]}.0.in_layers.2.weight"][0] for i in levels],
        "layers_per_block": n_layers,
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        # diffusers' name for the number of heads, by an old mistake of its own
        "attention_head_dim": facts["unet"]["attention_head_dim"],
        "norm_num_groups": facts["unet"]["norm_num_groups"],
        "act_fn": "silu",
    }


def _vae_config(shapes: Shapes, facts: Mapping[str, Any], latent_size: int) -> dict[str, Any]:
    n_levels = len(_numbers(shapes, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight"))
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "sample_size": latent_size * 2 ** (n_levels - 1),
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(n_levels)],
        "layers_per_block": len(_numbers(shapes, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")),
        "down_block_types": ["DownEncoderBlock2D"] * n_levels,
        "up_block_types": ["UpDecoderBlock2D"] * n_levels,
        "norm_num_groups": facts["vae"]["norm_num_groups"],
        "act_fn": "silu",
        "scaling_factor": 0.18215,
    }


def _text_config(shapes: Shapes, facts: Mapping[str, Any]) -> dict[str, Any]:
    vocab_size, hidden_size = shapes["embeddings.token_embedding.weight"]
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "projection_dim": hidden_size,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(_numbers(shapes, r"encoder\.layers\.(\d+)\.mlp\.fc1\.weight")),
        "num_attention_heads": facts["text_encoder"]["num_attention_heads"],
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
        # As published with v1: the end token is found as the largest id, which 2 tells transformers to do.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
