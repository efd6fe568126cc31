"""The model family of a file, or a description of what else it is. Each family is defined in a module of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dreambooth.checkpoints.sd1 import SD1
from dreambooth.checkpoints.sd2 import SD2_512, SD2_768
from dreambooth.checkpoints.sdxl import SDXL
from dreambooth.checkpoints.stable_diffusion import Shapes
from dreambooth.checkpoints.stable_diffusion import StableDiffusion as Family
from dreambooth.errors import UserError
from dreambooth.tensor_files import Tensors
from dreambooth.text import count

FAMILIES: tuple[Family, ...] = (SD1, SD2_768, SD2_512, SDXL)


def family_of(model_type: str) -> Family:
    """The family with this model_type (db_config.json)."""
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise UserError(f"model_type {model_type!r} is not supported (supported: {known}): create the model again.")


def candidate_families(file: Tensors) -> list[Family]:
    """The families that match the tensors of a checkpoint; several when the tensors are ambiguous.

    UserError that describes what else the file is, or which components it lacks.
    """
    shapes = {key: file.shape(key) for key in file}
    if not shapes:
        raise UserError(f"{file.path} has no tensors: download or copy it again.")
    found = [family for family in FAMILIES if family.matches(shapes)]
    if not found:
        raise UserError(f"{file.path} is {_description(shapes)}.")
    if missing := found[0].missing(shapes):
        vae_only = len(missing) == 1 and missing[0].startswith("VAE")
        fix = "select a VAE too, or use a checkpoint with a VAE" if vae_only else (
            "use a complete one (with VAE and text encoder)"
        )  # fmt: skip
        raise UserError(f"{file.path} is a {found[0].title} checkpoint without {' and '.join(missing)}: {fix}.")
    return found


def family_of_folder(configs: Mapping[str, Mapping[str, Any]]) -> Family | None:
    """The family of a diffusers folder with these configs; None when it is unknown."""
    return next((family for family in FAMILIES if family.matches_folder(configs)), None)


_SUPPORTED = "choose a checkpoint of Stable Diffusion 1.x, 2.x or XL"


def _description(shapes: Shapes) -> str:
    """What a file of no supported family is, and what to choose instead."""
    for matches, text in _OTHERS:
        if matches(shapes):
            return text
    n_tensors = count(len(shapes), "tensor")
    return f"not a known kind of model ({n_tensors}, the first is {next(iter(shapes))}): {_SUPPORTED}"


def describe_kind(shapes: Shapes) -> str:
    """What a file of no supported family is, in a few words: "a LoRA", "a VAE"."""
    return re.split(r"[,:(]", _description(shapes))[0].strip()


def _starts(*prefixes: str):
    return lambda shapes: any(key.startswith(prefixes) for key in shapes)


def _holds(*parts: str):
    return lambda shapes: any(part in key for key in shapes for part in parts)


def _conv_in(channels: int):
    def matches(shapes: Shapes) -> bool:
        return shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 0))[1:2] == (channels,)

    return matches


def _later(name: str) -> str:
    return f"{name}, which is not supported yet: {_SUPPORTED}"


# Checked from top to bottom, the most specific first.
_OTHERS = (
    (
        _holds("lora_unet_", "lora_te", "lora_down.", "lora.down.", "lora_A.", ".hada_w1_", ".lokr_w", ".oft_"),
        f"a LoRA, not a checkpoint: {_SUPPORTED} to train on (LoRAs are merged by Generate Ckpt)",
    ),
    (_starts("control_model.", "controlnet_", "input_hint_block"), f"a ControlNet, not a checkpoint: {_SUPPORTED}"),
    (_holds("motion_modules."), f"a motion module, not a checkpoint: {_SUPPORTED}"),
    (_starts("ip_adapter.", "image_proj."), f"an IP-Adapter, not a checkpoint: {_SUPPORTED}"),
    (_starts("vision_model."), f"an image encoder, not a checkpoint: {_SUPPORTED}"),
    (_holds("double_blocks.", "double_stream"), _later("a FLUX model")),
    (_holds("joint_blocks.", "joint_transformer_blocks."), _later("a Stable Diffusion 3 model")),
    (_starts("conditioner.embedders.0.open_clip."), _later("a video model (Stable Video Diffusion)")),
    (_starts("conditioner.embedders.0.model."), _later("an SDXL refiner")),
    (_conv_in(8), _later("an instruct-pix2pix checkpoint")),
    (_conv_in(7), _later("a Stable Diffusion 2 upscaler")),
    (_conv_in(5), _later("a depth-to-image checkpoint")),
    (_starts("model.diffusion_model."), _later("a checkpoint of an unknown family")),
    (
        _starts("string_to_param", "emb_params", "clip_l", "clip_g", "bundle_emb."),
        f"a textual inversion embedding, not a checkpoint: {_SUPPORTED}",
    ),
    (_starts("first_stage_model.", "decoder.conv_in.", "decoder.mid"), f"a VAE, not a checkpoint: {_SUPPORTED}"),
    (
        _starts("cond_stage_model.", "text_model.", "transformer.text_model.", "encoder.layers."),
        f"a text encoder, not a checkpoint: {_SUPPORTED}",
    ),
    (
        _starts("input_blocks.", "diffusion_model."),
        f"a UNet without VAE and text encoder: {_SUPPORTED} that has all three",
    ),
    (
        _starts("down_blocks.", "time_embedding.", "conv_in."),
        "one component of a diffusers model: choose the folder with model_index.json instead",
    ),
    (
        _starts("model.1.sub.", "model.0.", "conv_first.", "RRDB_trunk.", "body.", "params_ema."),
        f"an upscaler, not a checkpoint: {_SUPPORTED}",
    ),
    (lambda shapes: len(shapes) <= 2, f"too small for a checkpoint (an embedding, perhaps): {_SUPPORTED}"),
)
