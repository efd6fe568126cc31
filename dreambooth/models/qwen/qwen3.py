"""Qwen3 as a text encoder: files, config, module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dreambooth.models.layout import Shapes
from dreambooth.tensor_files import Tensors

_EMBEDDING, _QUERY_NORM = "embed_tokens.weight", "layers.0.self_attn.q_norm.weight"
_ROPE_THETA = 1_000_000.0
_IN_FOLDER = "model."  # before the names in transformers' files of the language model


def qwen3_names(file: Tensors) -> dict[str, str]:
    """The names in Qwen3Model of a file's tensors, with those in the file; {} if it is not Qwen3's.

    Files have them with or without the prefix of the language model, whose output layer is left out. Of Qwen3-VL, which
    also has an image encoder, {} is returned.
    """
    prefix = next((key.removesuffix(_EMBEDDING) for key in file if key.endswith(_EMBEDDING)), None)
    if prefix is None or prefix + _QUERY_NORM not in file or any("visual." in key for key in file):
        return {}
    names = {key.removeprefix(prefix): key for key in file if key.startswith(prefix)}
    return {name: key for name, key in names.items() if is_qwen3_name(name)}


def is_qwen3_name(name: str) -> bool:
    """Whether Qwen3Model has such a tensor."""
    return name.startswith(("embed_tokens.", "layers.", "norm."))


def current_qwen3_name(name: str) -> str:
    """The name in Qwen3Model of a tensor in a folder of transformers."""
    return name.removeprefix(_IN_FOLDER)


def qwen3_config(shapes: Shapes, max_layers: int | None = None) -> dict[str, Any]:
    """The config of Qwen3Model, from the shapes of its tensors. KeyError if one is missing.

    ``max_layers``: of the first layers, where later ones have no use.
    """
    n_layers = len({match[1] for key in shapes if (match := re.match(r"layers\.(\d+)\.", key))})
    attention, head_dim = "layers.0.self_attn.", shapes[_QUERY_NORM][0]
    vocab_size, hidden_size = shapes[_EMBEDDING]
    return {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": shapes["layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": n_layers if max_layers is None else min(n_layers, max_layers),
        "num_attention_heads": shapes[attention + "q_proj.weight"][0] // head_dim,
        "num_key_value_heads": shapes[attention + "k_proj.weight"][0] // head_dim,
        "head_dim": head_dim,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": _ROPE_THETA,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
    }


def make_qwen3(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device."""
    from transformers import Qwen3Config, Qwen3Model

    with torch.device("meta"):
        return Qwen3Model(Qwen3Config(**config))


def rotary_frequencies(buffer: torch.Tensor) -> torch.Tensor:
    """The inverse frequencies of rotary embeddings, float32, of the size of ``buffer``: half that of a head."""
    dim = 2 * len(buffer)
    return 1.0 / (_ROPE_THETA ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
