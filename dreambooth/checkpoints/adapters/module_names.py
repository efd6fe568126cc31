"""Module names in adapter files: which prefixes programs write, and one spelling for all of them.

Names have underscores in place of dots (see :mod:`names`). A name is a prefix for the component and the path of the
module, in the UNet either as in diffusers or as in the original code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from dreambooth.models.sd.ldm_names import unet_prefixes

# kohya's prefixes; the first text encoder is numbered in models that have two
UNET, TEXT, TEXT_1, TEXT_2 = "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"
_ENCODER = "text_model_"  # outermost module of a text encoder; transformers 5 and some programs leave it out

# kohya's prefix by those that other programs write.
_PREFIXES = {
    "unet_": UNET,  # diffusers, OneTrainer
    "diffusion_model_": UNET,  # ComfyUI
    "model_diffusion_model_": UNET,  # the original checkpoint's
    "lycoris_": UNET,  # LyCORIS' own wrapper
    TEXT_1: TEXT,
    "lora_te_wrapped_transformer_": TEXT,  # trained in A1111's wrapper of the text encoder
    "text_encoder_": TEXT,
    "text_encoder_1_": TEXT,
    "text_encoder_2_": TEXT_2,
    **{f"clip_{size}_": TEXT for size in "lh"},  # OneTrainer; l: SD 1 and SDXL, h: SD 2
    **{f"text_encoders_clip_{size}_transformer_": TEXT for size in "lh"},  # ComfyUI
    "clip_g_": TEXT_2,
    "text_encoders_clip_g_transformer_": TEXT_2,
    UNET: UNET, TEXT: TEXT, TEXT_2: TEXT_2,
}  # fmt: skip
_LONGEST_FIRST = sorted(_PREFIXES, key=len, reverse=True)
_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"  # only the first part matters here
_LEVELS = (
    ((_CROSS, _CROSS, _CROSS, _PLAIN), (_PLAIN, _CROSS, _CROSS, _CROSS)),  # Stable Diffusion 1 and 2
    ((_PLAIN, _CROSS, _CROSS), (_CROSS, _CROSS, _PLAIN)),  # SDXL
)


def other_names(component: str, names: tuple[str, ...], only_text_encoder: bool) -> list[str]:
    """The names in other programs' files of a module that is called ``names`` in kohya's.

    ``only_text_encoder``: the model has a single one, so that a name without a prefix is unambiguous.
    """
    kohya = UNET if component == "unet" else TEXT_2 if component == "text_encoder_2" else TEXT
    bodies = dict.fromkeys(name.partition("_")[2].partition("_")[2] for name in names)
    if kohya != UNET:
        bodies |= dict.fromkeys(body.removeprefix(_ENCODER) for body in tuple(bodies))
    prefixes = [prefix for prefix, target in _PREFIXES.items() if target == kohya]
    bare = list(bodies) if kohya == UNET else [b for b in bodies if only_text_encoder and b.startswith(_ENCODER)]
    return [prefix + body for prefix in prefixes for body in bodies] + bare


def kohya_name(name: str, original: bool = False) -> str:
    """A module name of any program with kohya's prefix.

    Modules of the UNet get the names that diffusers gives them; with ``original`` those of the original code, which
    kohya uses for SDXL, stay.
    """
    prefix = next((prefix for prefix in _LONGEST_FIRST if name.startswith(prefix)), "")
    body = name.removeprefix(prefix)
    kohya = _PREFIXES.get(prefix) or (TEXT if body.startswith(_ENCODER) else UNET)
    if kohya == UNET:
        return UNET + (body if original else _module_path(body))
    return kohya + (body if body.startswith(_ENCODER) else _ENCODER + body)


def is_original_name(name: str) -> bool:
    """Whether it names a module of the UNet as the original code does (input_blocks_4_1_...)."""
    return kohya_name(name) != kohya_name(name, original=True)


def _module_path(body: str) -> str:
    """The path of a UNet's module in diffusers, for one of the original code; any other is returned as it is."""
    modules = _module_paths()
    head = body
    while head and head not in modules:
        head = head.rpartition("_")[0]
    return modules[head] + body[len(head) :] if head else body


@cache
def _module_paths() -> Mapping[str, str]:
    """Paths in diffusers by those of the original code, for the published architectures (all have two layers)."""
    modules = {}
    for down, up in _LEVELS:
        config = {"block_out_channels": down, "layers_per_block": 2, "down_block_types": down, "up_block_types": up}
        for original, module in unet_prefixes(config).items():
            modules[original.replace(".", "_")] = module.replace(".", "_")
    return modules
