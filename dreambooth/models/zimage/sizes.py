"""The config of Z-Image's transformer, from the shapes of its original tensors."""

from __future__ import annotations

import re
from typing import Any

from dreambooth.models.layout import Shapes

PATCH = 2  # latent pixels per token, along each side
NORM = "layers.0.attention.q_norm.weight"


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """KeyError if a tensor that determines a size is missing."""
    dim, patch_channels = shapes["x_embedder.weight"]
    head_dim = shapes[NORM][0]
    return {
        "_class_name": "ZImageTransformer2DModel",
        "in_channels": patch_channels // PATCH**2,
        "dim": dim,
        "n_layers": _count(shapes, "layers"),
        "n_refiner_layers": _count(shapes, "noise_refiner"),
        "n_heads": dim // head_dim,
        "n_kv_heads": dim // head_dim,
        "cap_feat_dim": shapes["cap_embedder.1.weight"][1],
        # Of a head's channels, a quarter rotates with the position in the caption, the others with row and column.
        "axes_dims": [head_dim // 4, head_dim * 3 // 8, head_dim * 3 // 8],
        "axes_lens": [1536, 512, 512],
    }


def _count(shapes: Shapes, blocks: str) -> int:
    return len({match[1] for key in shapes if (match := re.match(rf"{blocks}\.(\d+)\.", key))})
