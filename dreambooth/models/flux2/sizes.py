"""The config of FLUX.2's transformer, from the shapes of its original tensors."""

from __future__ import annotations

import re
from typing import Any

from dreambooth.models.layout import Shapes

NORM = "double_blocks.0.img_attn.norm.key_norm.scale"
TEXT_INPUT = "txt_in.weight"
_N_AXES = 4  # of positions: time, row, column, and place in the prompt


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """That of diffusers' Flux2Transformer2DModel. KeyError if a tensor that determines a size is missing."""
    dim, channels = shapes["img_in.weight"]
    (head_dim,) = shapes[NORM]
    return {
        "_class_name": "Flux2Transformer2DModel",
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0],
        "num_layers": _count(shapes, "double_blocks"),
        "num_single_layers": _count(shapes, "single_blocks"),
        "attention_head_dim": head_dim,
        "num_attention_heads": dim // head_dim,
        "joint_attention_dim": shapes[TEXT_INPUT][1],
        "timestep_guidance_channels": shapes["time_in.in_layer.weight"][1],
        "mlp_ratio": shapes["double_blocks.0.img_mlp.2.weight"][1] / dim,
        "axes_dims_rope": [head_dim // _N_AXES] * _N_AXES,
        "rope_theta": 2000,
        "eps": 1e-6,
        "guidance_embeds": False,
    }


def _count(shapes: Shapes, blocks: str) -> int:
    return len({match[1] for key in shapes if (match := re.match(rf"{blocks}\.(\d+)\.", key))})
