"""How files name an adapter's parts: kohya's and LyCORIS' names, peft's, and those of older diffusers.

A key is a module's name and a part's. kohya's modules have underscores (``lora_unet_mid_block_...``), diffusers' dots
(``unet.mid_block. ...``). Here dots become underscores, so that one table of a model's modules serves both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from dreambooth.checkpoints.adapters.kinds import COMMON, ADAPTER_KINDS

BIAS_PARTS = ("diff_b", "b_norm")

_OWN = {part for kind in ADAPTER_KINDS for parts in (*kind.required, kind.optional) for part in parts}
_ALIASES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_A.default.weight": "lora_down.weight",
    "lora_B.default.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector": "dora_scale",
    "lora_magnitude_vector.weight": "dora_scale",
    "lora_magnitude_vector.default.weight": "dora_scale",
}
# Named when they are met, so that nobody wonders; each has layouts that can't be told apart, or none of its own.
REFUSED = {
    "a1.weight": "GLoRA", "a2.weight": "GLoRA", "b1.weight": "GLoRA", "b2.weight": "GLoRA", "bm.weight": "GLoRA",
    "oft_blocks": "OFT", "oft_diag": "OFT", "rescale": "OFT",
    "bias_indices": "LoRA with a sparse bias", "bias_values": "LoRA with a sparse bias",
    "bias_size": "LoRA with a sparse bias",
}  # fmt: skip
_KNOWN = sorted({*_OWN, *COMMON, *BIAS_PARTS, *_ALIASES, *REFUSED}, key=len, reverse=True)
_ATTENTION_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$")


class Key(NamedTuple):
    """A module's name with underscores, and the part of its adapter by the name that :mod:`kinds` uses."""

    module: str
    part: str


def parse_key(key: str) -> Key | None:
    """What a file's key says, None when it is no part of any adapter."""
    if found := _ATTENTION_PROCESSOR.search(key):  # diffusers before 0.22 kept them apart from the module
        layer = "to_out.0" if found[1] == "to_out" else found[1]
        return Key(_flat(f"{key[: found.start()]}.{layer}"), f"lora_{found[2]}.weight")
    for part in _KNOWN:
        if key.endswith(f".{part}"):
            return Key(_flat(key[: -len(part) - 1]), _ALIASES.get(part, part))
    return None


def normalize_shape(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The part as kohya and LyCORIS shape it: peft's magnitudes are (out,), or (1, out, 1, 1) for a convolution."""
    return tensor.reshape(-1, 1) if "lora_magnitude_vector" in key else tensor


def diffusers_names(component: str, module: str) -> tuple[str, ...]:
    """How files by diffusers' names call a module.

    Text encoders' also as transformers 5 does; the unet's also by itself, or with the mark of LyCORIS' own wrapper.
    """
    if component == "unet":
        names = [f"unet.{module}", module, f"lycoris_{module}"]
    else:
        names = [f"{component}.{module}", f"{component}.{module.removeprefix('text_model.')}"]
    return tuple(map(_flat, names))


def peft_alpha(config: Mapping[str, Any], name: str, rank: int) -> float | None:
    """A module's alpha by peft's rules: that of the pattern that ends its name, else lora_alpha; None: not said.

    rsLoRA (arXiv:2312.03732) divides by the root of the rank: the alpha that says the same counts the root again.
    """
    component = next((c for c in ("unet", "text_encoder_2", "text_encoder") if name.startswith(f"{c}_")), "unet")
    patterns = config.get(f"{component}.alpha_pattern") or {}
    named = (float(alpha) for key, alpha in patterns.items() if f"_{name}".endswith(f"_{_flat(key)}"))
    alpha = next(named, config.get(f"{component}.lora_alpha"))
    if alpha is None:
        return None
    return float(alpha) * (math.sqrt(rank) if config.get(f"{component}.use_rslora") else 1.0)


def _flat(name: str) -> str:
    return name.replace(".", "_")
