"""The configs of the transformers of FLUX.1 and Chroma, from the shapes of their original tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dreambooth.models.layout import Shapes

PATCH = 2  # latent pixels per token, along each side
NORM = "double_blocks.0.img_attn.norm.query_norm.scale"
PATCHES = "img_in.weight"
GUIDANCE = "guidance_in.in_layer.weight"
POOLED = "vector_in.in_layer.weight"  # Chroma has none


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """KeyError if a tensor that determines a size is missing."""
    return {
        "_class_name": "FluxTransformer2DModel",
        **block_sizes(shapes),
        "pooled_projection_dim": shapes[POOLED][1],
        "guidance_embeds": GUIDANCE in shapes,
    }


def block_sizes(shapes: Shapes) -> dict[str, Any]:
    """What the transformers have in common."""
    width, packed_channels = shapes[PATCHES]
    head_dim = shapes[NORM][0]
    return {
        "patch_size": 1,
        "in_channels": packed_channels,
        "num_layers": count_of(shapes, "double_blocks"),
        "num_single_layers": count_of(shapes, "single_blocks"),
        "attention_head_dim": head_dim,
        "num_attention_heads": width // head_dim,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        # Of a head's channels, an eighth rotates with an index that is always 0, the others with row and column.
        "axes_dims_rope": [head_dim // 8, head_dim * 7 // 16, head_dim * 7 // 16],
    }


def count_of(shapes: Shapes, blocks: str) -> int:
    return len({match[1] for key in shapes if (match := re.match(rf"{re.escape(blocks)}\.(\d+)\.", key))})


def width_of(transformer: Mapping[str, Any]) -> int:
    """Channels of a token, from the config."""
    return transformer["num_attention_heads"] * transformer["attention_head_dim"]
