"""The encoder of T5 v1.1 as a text encoder: files, config, module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dreambooth.models.layout import Shapes
from dreambooth.tensor_files import Tensors

EMBEDDING = "shared.weight"
_SAME_EMBEDDING = "encoder.embed_tokens.weight"  # some files have this name, some have both
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_GATE = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"  # T5 before 1.1 has none
_PREFIXES = ("", "text_encoders.t5xxl.transformer.", "t5xxl.transformer.")


def t5_names(file: Tensors) -> dict[str, str]:
    """The names in T5EncoderModel of a file's tensors, with those in the file; {} if it is not T5's encoder.

    A decoder is left out. Of UMT5, which has a position bias in each block, {} is returned.
    """
    prefix = next((prefix for prefix in _PREFIXES if prefix + _GATE in file), None)
    if prefix is None or prefix + _BIAS not in file or prefix + _BIAS.replace(".0.", ".1.", 1) in file:
        return {}
    names = [key.removeprefix(prefix) for key in file if key.startswith(prefix)]
    made = {name: prefix + name for name in names if is_t5_name(name)}
    if EMBEDDING not in made and _SAME_EMBEDDING in names:
        made = {EMBEDDING: prefix + _SAME_EMBEDDING, **made}
    return made if EMBEDDING in made else {}


def is_t5_name(name: str) -> bool:
    """Whether T5EncoderModel has such a tensor."""
    return name == EMBEDDING or name.startswith(("encoder.block.", "encoder.final_layer_norm."))


def current_t5_name(name: str) -> str:
    """The name in T5EncoderModel of a tensor in a folder of transformers."""
    return EMBEDDING if name == _SAME_EMBEDDING else name


def t5_config(shapes: Shapes) -> dict[str, Any]:
    """The config of T5EncoderModel, from the shapes of its tensors. KeyError if one is missing."""
    vocab_size, width = shapes[EMBEDDING]
    n_buckets, n_heads = shapes[_BIAS]
    n_layers = len({match[1] for key in shapes if (match := re.match(r"encoder\.block\.(\d+)\.", key))})
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocab_size,
        "d_model": width,
        "d_kv": shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0] // n_heads,
        "d_ff": shapes[_GATE][0],
        "num_layers": n_layers,
        "num_decoder_layers": n_layers,
        "num_heads": n_heads,
        "relative_attention_num_buckets": n_buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "is_encoder_decoder": True,
        "use_cache": False,
        "tie_word_embeddings": False,
    }


def make_t5(config: Mapping[str, Any]) -> nn.Module:
    """On the meta device."""
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        module = T5EncoderModel(T5Config(**config))
    module.set_input_embeddings(module.shared)  # transformers 5 has two modules there
    return module
