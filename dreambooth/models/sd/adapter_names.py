"""Module names in adapter files of Stable Diffusion: which prefixes programs write, and which family names tell.

Names have underscores in place of dots. A name is a prefix for the component and the path of the module, in the UNet
either as in diffusers or as in the original code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from dreambooth.models.adapter_spelling import AdapterSpelling, Naming
from dreambooth.models.sd.ldm_names import unet_prefixes

AdapterSizes = Mapping[str, tuple[int, int] | None]

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
# Components by the first part of names in adapter files and in files of one component, for reports.
FILE_PREFIXES = {"model.diffusion_model.": "unet", "first_stage_model.": "vae", "lora_unet": "unet",
                 "lora_te1": "text_encoder", "lora_te2": "text_encoder_2", "lora_te": "text_encoder"}  # fmt: skip
_LONGEST_FIRST = sorted(_PREFIXES, key=len, reverse=True)
_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"  # only the first part matters here
_LEVELS = (
    ((_CROSS, _CROSS, _CROSS, _PLAIN), (_PLAIN, _CROSS, _CROSS, _CROSS)),  # Stable Diffusion 1 and 2
    ((_PLAIN, _CROSS, _CROSS), (_CROSS, _CROSS, _PLAIN)),  # SDXL
)


SDXL_TITLE = "SDXL"
_TITLE_OF_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2", 2048: SDXL_TITLE}  # of text embeddings
_TITLE_OF_MODULE = {
    "_double_blocks_": "FLUX", "single_transformer_blocks_": "FLUX", "_joint_blocks_": "Stable Diffusion 3",
    "transformer_transformer_blocks_": "Stable Diffusion 3 or FLUX", "lora_te2_": SDXL_TITLE,
    "text_encoder_2_": SDXL_TITLE, "clip_g_": SDXL_TITLE,
}  # fmt: skip


@dataclass(frozen=True)
class StableDiffusionSpelling(AdapterSpelling):
    """kohya's names are written; those of all programs are read."""

    def names(self, module: str, original: str | None) -> tuple[str, ...]:
        own = super().names(module, original)
        return (*own, *self._other_names(own))

    def _other_names(self, names: tuple[str, ...]) -> list[str]:
        kohya = {"lora_unet": UNET, "lora_te2": TEXT_2}.get(self.prefixes[0], TEXT)
        bodies = dict.fromkeys(name.partition("_")[2].partition("_")[2] for name in names)
        if kohya != UNET:
            bodies |= dict.fromkeys(body.removeprefix(_ENCODER) for body in tuple(bodies))
        prefixes = [prefix for prefix, target in _PREFIXES.items() if target == kohya]
        # The only text encoder of a model needs no prefix.
        is_only = self.prefixes[0] == "lora_te"
        bare = list(bodies) if kohya == UNET else [b for b in bodies if is_only and b.startswith(_ENCODER)]
        return [prefix + body for prefix in prefixes for body in bodies] + bare


def unet_spelling(*naming: Naming) -> StableDiffusionSpelling:
    return StableDiffusionSpelling(("lora_unet",), naming)


TEXT_ENCODER_SPELLING = StableDiffusionSpelling(("lora_te", "lora_te1"))
TEXT_ENCODER_1_SPELLING = StableDiffusionSpelling(("lora_te1",))
TEXT_ENCODER_2_SPELLING = StableDiffusionSpelling(("lora_te2",))


def title_of(sizes: AdapterSizes) -> str:
    """The family that an adapter file was made for, by its modules' names and sizes (rows, columns); "" if unknown."""
    for name in sizes:
        for part, title in _TITLE_OF_MODULE.items():
            if part in name:
                return title
    cross_attention = (size for name, size in sizes.items() if name.endswith(("attn2_to_k", "attn2_to_v")))
    widths = (size[1] for size in cross_attention if size)
    return next((_TITLE_OF_WIDTH[width] for width in widths if width in _TITLE_OF_WIDTH), "")


def common_names(files: Sequence[Sequence[str]], is_sdxl: bool) -> list[dict[str, str]]:
    """One name for each module in all files: kohya's, that of the original code where all files have it (SDXL).

    The first text encoder is numbered where there may be a second one.
    """
    kohya = [[kohya_name(name) for name in file] for file in files]
    unet = [name for file in files for name in file if kohya_name(name).startswith(UNET)]
    original = bool(unet) and all(map(is_original_name, unet))
    is_sdxl = is_sdxl or any(name.startswith(TEXT_2) for file in kohya for name in file)
    text = TEXT_1 if is_sdxl else TEXT
    return [{name: _common_name(kohya_name(name, original), text) for name in file} for file in files]


def _common_name(name: str, text_prefix: str) -> str:
    return text_prefix + name.removeprefix(TEXT) if name.startswith(TEXT) else name


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
