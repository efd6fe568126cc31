"""CLIP-L as FLUX.1's text encoder: files and config."""

from __future__ import annotations

from typing import Any

from dreambooth.models.layout import Shapes
from dreambooth.models.sd.sizes import clip_config, transformers_text_sizes
from dreambooth.tensor_files import Tensors

_LAYER = "text_model.encoder.layers.0.self_attn.q_proj.weight"
_FINAL = "text_model.final_layer_norm.weight"
_HEAD_DIM = 64
_WIDEST = 768  # CLIP-G, which some files have with the same names, is wider
_PREFIXES = ("", "text_encoders.clip_l.transformer.", "clip_l.transformer.")


def clip_names(file: Tensors) -> dict[str, str]:
    """Names of the text encoder's tensors, with those in the file; {} if it is not CLIP-L's."""
    prefix = next((prefix for prefix in _PREFIXES if prefix + _LAYER in file), None)
    if prefix is None or prefix + _FINAL not in file or file.shape(prefix + _LAYER)[0] > _WIDEST:
        return {}
    names = [key.removeprefix(prefix) for key in file if key.startswith(prefix)]
    return {name: prefix + name for name in names if is_clip_name(name)}


def is_clip_name(name: str) -> bool:
    """Whether the text encoder has such a tensor. It has no projection, and makes position ids itself."""
    return name.startswith("text_model.") and not name.endswith("position_ids")


def flux_clip_config(shapes: Shapes) -> dict[str, Any]:
    """From the shapes of its tensors. KeyError if one is missing."""
    sizes = transformers_text_sizes(shapes)
    return clip_config(sizes, max(1, sizes["hidden_size"] // _HEAD_DIM), "quick_gelu", {})
