"""Prompts to text embeddings, the same way for training and for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Token ids, (B, 77) int64: start, up to 75 tokens, end, padding."""
    return tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def encode(text_encoder: torch.nn.Module, ids: torch.Tensor, clip_skip: int = 1) -> torch.Tensor:
    """Text embeddings, (B, 77, D), of the ``clip_skip``-th layer from the end, normalised as the last one is.

    ``clip_skip`` counts as the WebUI does: 1 is the last layer.
    """
    if clip_skip <= 1:
        return text_encoder(ids)[0]
    states = text_encoder(ids, output_hidden_states=True).hidden_states
    inner = getattr(text_encoder, "text_model", text_encoder)  # transformers 5 has no text_model
    return inner.final_layer_norm(states[-min(clip_skip, len(states) - 1)])
