"""Which model family a file belongs to, or what it is instead.

A family is one module (``sd1.py``, later ``sd2.py``, ``sdxl.py``): an object with the attributes of :class:`Family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dreambooth.checkpoints.ldm_names import Place
from dreambooth.checkpoints.reading import Tensors
from dreambooth.checkpoints.sd1 import SD1, Shapes
from dreambooth.errors import UserError


class Layout(Protocol):
    """Names in the original single file and places in the diffusers folder, for one model's sizes."""

    def place(self, key: str) -> Place | None: ...
    def key(self, place: Place) -> str | None: ...
    def adapter_names(self, place: Place) -> tuple[str, ...]: ...
    def key_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]: ...


class Family(Protocol):
    """Everything that differs between families; the rest of the room asks, and never tests for one."""

    model_type: str  # db_config.json's model_type
    title: str
    components: tuple[str, ...]
    base_model_version: str
    architecture: str
    implementation: str
    lora_prefixes: Mapping[str, str]
    ema_prefix: str

    def claims(self, shapes: Shapes) -> bool: ...
    def claims_folder(self, configs: Mapping[str, Mapping[str, Any]]) -> bool: ...
    def missing(self, shapes: Shapes) -> list[str]: ...
    def configs(self, shapes: Shapes, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]: ...
    def prediction_type(self, metadata: Mapping[str, str]) -> str: ...
    def facts_of(self, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]: ...
    def layout(self, configs: Mapping[str, Mapping[str, Any]]) -> Layout: ...
    def model_index(self) -> dict[str, Any]: ...
    def scheduler_config(self, prediction_type: str = "epsilon") -> dict[str, Any]: ...


FAMILIES: tuple[Family, ...] = (SD1,)


def family_of(model_type: str) -> Family:
    """The family by its name in db_config.json."""
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise UserError(f"model_type {model_type!r} is not known here (known: {known}): create the model anew.")


def recognise(file: Tensors) -> Family:
    """The family of a checkpoint. UserError that says what the file is, when it is something else."""
    shapes = {key: file.shape(key) for key in file}
    if not shapes:
        raise UserError(f"{file.path} holds no tensors: download or copy it again.")
    for family in FAMILIES:
        if family.claims(shapes):
            if missing := family.missing(shapes):
                raise UserError(
                    f"{file.path} is a {family.title} checkpoint without {' and '.join(missing)}: "
                    "use a complete one (with the VAE and text encoder inside)."
                )
            return family
    raise UserError(f"{file.path} is {_description(shapes)}.")


_WANTED = "choose a Stable Diffusion 1.x checkpoint"


def _description(shapes: Shapes) -> str:
    """What a file is that no family claims, and what to do."""
    for is_it, text in _OTHERS:
        if is_it(shapes):
            return text
    return f"no checkpoint that is known here ({len(shapes)} tensors, the first is {next(iter(shapes))}): {_WANTED}"


def _starts(*prefixes: str):
    return lambda shapes: any(key.startswith(prefixes) for key in shapes)


def _holds(*parts: str):
    return lambda shapes: any(part in key for key in shapes for part in parts)


def _conv_in(channels: int):
    def is_it(shapes: Shapes) -> bool:
        return shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 0))[1:2] == (channels,)

    return is_it


def _later(name: str) -> str:
    return f"{name}, which is not supported yet: {_WANTED}"


# Looked through from top to bottom: what is more particular comes first.
_OTHERS = (
    (
        _holds("lora_unet_", "lora_te", "lora_down.", "lora.down.", "lora_A.", ".hada_w1_", ".lokr_w", ".oft_"),
        f"a LoRA, not a checkpoint: {_WANTED} to train on (LoRAs are merged by Generate Ckpt)",
    ),
    (_starts("control_model.", "controlnet_", "input_hint_block"), f"a ControlNet, not a checkpoint: {_WANTED}"),
    (_holds("motion_modules."), f"a motion module, not a checkpoint: {_WANTED}"),
    (_starts("ip_adapter.", "image_proj."), f"an IP-Adapter, not a checkpoint: {_WANTED}"),
    (_starts("vision_model."), f"an image encoder, not a checkpoint: {_WANTED}"),
    (_holds("double_blocks.", "double_stream"), _later("a model of the FLUX kind")),
    (_holds("joint_blocks.", "joint_transformer_blocks."), _later("a Stable Diffusion 3 model")),
    (_starts("conditioner.embedders.0.open_clip."), _later("a video model (Stable Video Diffusion)")),
    (_starts("conditioner.embedders.0.model."), _later("an SDXL refiner")),
    (_starts("conditioner.", "model.diffusion_model.label_emb."), _later("an SDXL checkpoint")),
    (_conv_in(9), _later("an inpainting checkpoint")),
    (_conv_in(8), _later("an instruct-pix2pix checkpoint")),
    (_conv_in(7), _later("a Stable Diffusion 2 upscaler")),
    (_starts("cond_stage_model.model."), _later("a Stable Diffusion 2 checkpoint")),
    (_starts("model.diffusion_model."), _later("a checkpoint of a family that is not known here")),
    (
        _starts("string_to_param", "emb_params", "clip_l", "clip_g", "bundle_emb."),
        f"a textual inversion embedding, not a checkpoint: {_WANTED}",
    ),
    (_starts("first_stage_model.", "decoder.conv_in.", "decoder.mid"), f"a VAE alone, not a checkpoint: {_WANTED}"),
    (
        _starts("cond_stage_model.", "text_model.", "transformer.text_model.", "encoder.layers."),
        f"a text encoder alone, not a checkpoint: {_WANTED}",
    ),
    (
        _starts("input_blocks.", "diffusion_model."),
        f"a unet alone, without VAE and text encoder: {_WANTED} that has all three",
    ),
    (
        _starts("down_blocks.", "time_embedding.", "conv_in."),
        "one component of a diffusers model: choose the folder that holds model_index.json instead",
    ),
    (
        _starts("model.1.sub.", "model.0.", "conv_first.", "RRDB_trunk.", "body.", "params_ema."),
        f"an upscaler, not a checkpoint: {_WANTED}",
    ),
    (lambda shapes: len(shapes) <= 2, f"too small for a checkpoint (an embedding, perhaps): {_WANTED}"),
)
