"""Keys of adapter files: the naming schemes of kohya and LyCORIS, of peft, and of older diffusers versions.

A key is a module name and the name of one of its tensors. Module names have underscores in kohya's files
(``lora_unet_mid_block_...``) and dots in those of diffusers (``unet.mid_block...``). Here dots are replaced by
underscores, so that one table of modules serves both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from dreambooth.checkpoints.adapters.kinds import ADAPTER_KINDS, COMMON
from dreambooth.models.adapter_spelling import is_text_encoder_name, underscored

BIAS_TENSORS = ("diff_b", "b_norm")

_TENSORS = {name for kind in ADAPTER_KINDS for names in (*kind.required, kind.optional) for name in names}
_ALIASES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector": "dora_scale",
    "lora_magnitude_vector.weight": "dora_scale",
    "magnitude": "dora_scale",
}
_PEFT = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
# Unsupported kinds, so that messages can name them: their layouts are ambiguous.
UNSUPPORTED = {
    "a1.weight": "GLoRA", "a2.weight": "GLoRA", "b1.weight": "GLoRA", "b2.weight": "GLoRA", "bm.weight": "GLoRA",
    "oft_blocks": "OFT", "oft_diag": "OFT", "rescale": "OFT", "oft_R.weight": "OFT",
    "bias_indices": "LoRA with a sparse bias", "bias_values": "LoRA with a sparse bias",
    "bias_size": "LoRA with a sparse bias",
}  # fmt: skip
_ALL_TENSORS = sorted({*_TENSORS, *COMMON, *BIAS_TENSORS, *_ALIASES, *UNSUPPORTED}, key=len, reverse=True)
# Wrappers of peft, accelerate and torch.compile around the model.
_WRAPPER = re.compile(r"^(base_model\.model\.|base_model\.|module\.)+|_orig_mod\.")
_ADAPTER_NAME = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.[\w-]+\.weight$")  # peft's; "default" if not given
_NO_ADAPTERS = ("bundle_emb.", "_aux.", "<")  # embeddings of pivotal tuning, notes of other programs
_ATTENTION_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$")


class Key(NamedTuple):
    """The name of a module, with dots where the file has them, and that of a tensor of its adapter (:mod:`kinds`)."""

    name: str
    tensor: str

    @property
    def module(self) -> str:
        """The name with underscores."""
        return underscored(self.name)


def parse_key(key: str) -> Key | None:
    """Split a key of a file into module and tensor name; None when it belongs to no adapter."""
    key = _ADAPTER_NAME.sub(r".\1.weight", _WRAPPER.sub("", key))
    if match := _ATTENTION_PROCESSOR.search(key):  # diffusers before 0.22 stored them under the attention processor
        layer = "to_out.0" if match[1] == "to_out" else match[1]
        return Key(f"{key[: match.start()]}.{layer}", f"lora_{match[2]}.weight")
    for name in _ALL_TENSORS:
        if key.endswith(f".{name}"):
            return Key(key[: -len(name) - 1], _ALIASES.get(name, name))
    return None


def is_adapter_key(key: str) -> bool:
    """Whether the file has it for an adapter, not as an embedding or a note beside them."""
    return not key.startswith(_NO_ADAPTERS)


def normalize_shape(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the shape of LyCORIS: magnitudes of peft are (out,), or (1, out, 1, 1) for a convolution."""
    return tensor.reshape(-1, 1) if "magnitude" in key else tensor


def peft_alpha(config: Mapping[str, Any], name: str, rank: int) -> float | None:
    """Alpha of a module in peft's config: that of the alpha_pattern its name ends with, else lora_alpha, else None.

    rsLoRA (arXiv:2312.03732) scales by alpha / sqrt(rank): the returned alpha is multiplied by sqrt(rank) for that.
    """
    configured = {key.partition(".")[0] for key in config if "." in key}
    denoiser = next((c for c in sorted(configured) if not is_text_encoder_name(c)), "")
    components = sorted({*configured, "text_encoder", "text_encoder_2"}, key=len, reverse=True)
    component = next((c for c in components if name.startswith(f"{c}_")), denoiser)
    patterns = config.get(f"{component}.alpha_pattern") or {}
    matching = (float(alpha) for key, alpha in patterns.items() if f"_{name}".endswith(f"_{underscored(key)}"))
    alpha = next(matching, config.get(f"{component}.lora_alpha"))
    if alpha is None:
        return None
    return float(alpha) * (math.sqrt(rank) if config.get(f"{component}.use_rslora") else 1.0)


def written_tensor_name(module: str, tensor: str) -> str:
    """The name of an adapter's tensor in files: peft's for a module whose name has dots, else kohya's."""
    return _PEFT.get(tensor, tensor) if "." in module else tensor
