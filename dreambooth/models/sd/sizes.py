"""Config values of the components (diffusers, transformers), derived from the shapes of their original tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dreambooth.models.layout import Shapes
from dreambooth.text import count


def clip_config(sizes: Mapping[str, int], heads: int, hidden_act: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The transformers config of a text encoder with these sizes."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        **sizes,
        "num_attention_heads": overrides.get("num_attention_heads", heads),
        "hidden_act": overrides.get("hidden_act", hidden_act),
        "layer_norm_eps": 1e-05,
        # As published with v1: with eos_token_id 2 transformers pools at the largest id, which is the end token.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def transformers_text_sizes(shapes: Shapes) -> dict[str, int]:
    """Sizes of a text encoder with transformers' names, with or without the inner prefix."""
    shapes = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
    vocab_size, hidden_size = shapes["embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "projection_dim": hidden_size,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(_numbers(shapes, r"encoder\.layers\.(\d+)\.mlp\.fc1\.weight")),
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0],
    }


def open_clip_sizes(shapes: Shapes) -> dict[str, int]:
    """Sizes of a text encoder with open_clip's names."""
    vocab_size, hidden_size = shapes["token_embedding.weight"]
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "projection_dim": shapes.get("text_projection", (0, hidden_size))[1],
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": len(_numbers(shapes, r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.weight")),
        "max_position_embeddings": shapes["positional_embedding"][0],
    }


def unet_sizes(shapes: Shapes) -> dict[str, Any]:
    """The part of a unet's config that the shapes of its original tensors determine."""
    resnets = _numbers(shapes, r"input_blocks\.(\d+)\.0\.in_layers\.2\.weight")
    n_levels = 1 + len(_numbers(shapes, r"input_blocks\.(\d+)\.0\.op\.weight"))
    n_layers = len(resnets) // n_levels
    levels = [resnets[level * n_layers : (level + 1) * n_layers] for level in range(n_levels)]
    depths = [[_depth(shapes, f"input_blocks.{number}") for number in level] for level in levels]
    up_depths = [
        [_depth(shapes, f"output_blocks.{level * (n_layers + 1) + layer}") for layer in range(n_layers + 1)]
        for level in range(n_levels)
    ]
    attends = [bool(max(level)) for level in depths]
    config = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": [shapes[f"input_blocks.{i[-1]}.0.in_layers.2.weight"][0] for i in levels],
        "layers_per_block": n_layers,
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        "cross_attention_dim": _context_width(shapes),
        **_middle_sizes(shapes, max(depths[-1])),
        **_depth_sizes(depths, up_depths),
    }
    if len(shapes[_first(shapes, r"input_blocks\.\d+\.1\.proj_in\.weight")]) == 2:
        config["use_linear_projection"] = True
    return config


def _depth(shapes: Shapes, block: str) -> int:
    """The number of transformer layers of a block."""
    return len(_numbers(shapes, rf"{re.escape(block)}\.1\.transformer_blocks\.(\d+)\.norm1\.weight"))


def _depth_sizes(depths: list[list[int]], up_depths: list[list[int]]) -> dict[str, Any]:
    """Transformer layers per level or, in models that were pruned (SSD-1B, Segmind Vega), per layer of each level."""
    if max(map(max, depths)) == 1 == max(map(max, up_depths)):
        return {}
    is_regular = all(set(up) == {level[0]} == set(level) for level, up in zip(depths, reversed(up_depths), strict=True))
    if is_regular:
        return {"transformer_layers_per_block": [level[0] or 1 for level in depths]}
    return {
        "transformer_layers_per_block": [[depth or 1 for depth in level] for level in depths],
        "reverse_transformer_layers_per_block": [[depth or 1 for depth in level] for level in up_depths],
    }


def _middle_sizes(shapes: Shapes, depth: int) -> dict[str, Any]:
    """The kind of middle block, if it is not the usual one. ValueError if diffusers has none like it."""
    middle = _depth(shapes, "middle_block")
    if middle:
        if middle != (depth or 1):
            raise ValueError(f"middle_block with {count(middle, 'transformer layer')}")
        return {}
    return {"mid_block_type": "UNetMidBlock2D" if "middle_block.0.in_layers.2.weight" in shapes else None}


def _context_width(shapes: Shapes) -> int:
    return shapes[_first(shapes, r".*\.transformer_blocks\.0\.attn2\.to_k\.weight")][1]


def _first(shapes: Shapes, pattern: str) -> str:
    """The first name that matches; KeyError if none does."""
    for key in shapes:
        if re.fullmatch(pattern, key):
            return key
    raise KeyError(pattern.replace("\\", ""))


def vae_sizes(shapes: Shapes) -> dict[str, Any]:
    """The part of a VAE's config that the shapes of its original tensors determine."""
    n_levels = len(_numbers(shapes, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight"))
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(n_levels)],
        "layers_per_block": len(_numbers(shapes, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")),
        "down_block_types": ["DownEncoderBlock2D"] * n_levels,
        "up_block_types": ["UpDecoderBlock2D"] * n_levels,
    }


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    """The distinct numbers that the group of ``pattern`` matches, ascending."""
    return sorted({int(match[1]) for key in shapes if (match := re.fullmatch(pattern, key))})
