"""The configs of Anima's transformer and text adapter, from the shapes of their original tensors; their modules."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dreambooth.models.anima.text_adapter import TextAdapter
from dreambooth.models.layout import Shapes

PATCH = 2  # latent pixels per token, along each side
QUERY = "blocks.0.self_attn.q_proj.weight"
_MAX_SIZE = (128, 2048, 2048)  # frames, and rows and columns of latents, for which positions are made


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """That of diffusers' class. KeyError if a tensor that determines a size is missing."""
    dim, patch_channels = shapes["x_embedder.proj.1.weight"]
    head_dim = shapes["blocks.0.self_attn.q_norm.weight"][0]
    return {
        "_class_name": "CosmosTransformer3DModel",
        "in_channels": patch_channels // PATCH**2 - 1,
        "out_channels": shapes["final_layer.linear.weight"][0] // PATCH**2,
        "num_attention_heads": dim // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": _count(shapes, "blocks"),
        "mlp_ratio": shapes["blocks.0.mlp.layer1.weight"][0] / dim,
        "text_embed_dim": shapes["blocks.0.cross_attn.k_proj.weight"][1],
        "adaln_lora_dim": shapes["blocks.0.adaln_modulation_self_attn.1.weight"][0],
        "max_size": [128, 240, 240],
        "patch_size": [1, PATCH, PATCH],
        "rope_scale": [1.0, 4.0, 4.0],
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
    }


def make_transformer(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device, for latents with a channel more, which is the padding mask.

    The class would resize the mask with torchvision, which some hosts don't have. Sizes above its limit are cut off by
    the module, which has no tensors that depend on it.
    """
    from diffusers import CosmosTransformer3DModel

    known = inspect.signature(CosmosTransformer3DModel.__init__).parameters  # older versions have fewer
    values = {key: value for key, value in config.items() if key in known}
    values |= {"in_channels": config["in_channels"] + 1, "concat_padding_mask": False, "max_size": _MAX_SIZE}
    with torch.device("meta"):
        return CosmosTransformer3DModel(**values)


def adapter_config(shapes: Shapes) -> dict[str, Any]:
    """That of diffusers' AnimaTextConditioner. KeyError if a tensor that determines a size is missing."""
    n_tokens, target_dim = shapes["embed.weight"]
    dim = shapes["out_proj.weight"][1]
    return {
        "_class_name": "AnimaTextConditioner",
        "source_dim": shapes["blocks.0.cross_attn.k_proj.weight"][1],
        "target_dim": target_dim,
        "model_dim": dim,
        "num_layers": _count(shapes, "blocks"),
        "num_attention_heads": dim // shapes["blocks.0.self_attn.q_norm.weight"][0],
        "mlp_ratio": shapes["blocks.0.mlp.0.weight"][0] / dim,
        "target_vocab_size": n_tokens,
        "use_self_attention": True,
        "use_layer_norm": False,
        "min_sequence_length": 512,
    }


def make_adapter(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device."""
    with torch.device("meta"):
        return TextAdapter(
            config["source_dim"], config["target_dim"], config["model_dim"], config["num_layers"],
            config["num_attention_heads"], config["mlp_ratio"], config["target_vocab_size"],
        )  # fmt: skip


def _count(shapes: Shapes, blocks: str) -> int:
    return len({match[1] for key in shapes if (match := re.match(rf"{blocks}\.(\d+)\.", key))})
