"""Prompts to text embeddings, the same way for training and for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from dreambooth.checkpoints.modules import Modules


class Embedding(NamedTuple):
    """What a unet is told of prompts: ``states`` (B, 77, D) and, in SDXL, ``pooled`` (B, P)."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def to(self, *where: Any) -> Embedding:
        return Embedding(*(None if part is None else part.to(*where) for part in self))


def concatenate(embeddings: Sequence[Embedding]) -> Embedding:
    """One batch of several."""
    pooled = [embedding.pooled for embedding in embeddings]
    return Embedding(
        torch.cat([embedding.states for embedding in embeddings]),
        None if pooled[0] is None else torch.cat(pooled),  # type: ignore[arg-type]
    )


def tokenize(modules: Modules, prompts: Sequence[str]) -> torch.Tensor:
    """Token ids, (B, encoders, 77) int64: start, up to 75 tokens, end, padding."""
    return torch.stack([_tokenize(tokenizer, prompts) for tokenizer in modules.tokenizers], dim=1)


def encode(modules: Modules, ids: torch.Tensor, clip_skip: int = 1) -> Embedding:
    """Embed token ids (B, encoders, 77).

    ``clip_skip`` counts as the WebUI does: 1 is the last layer, which is normalised as the last one is. It counts for
    SD1 alone. SDXL (arXiv:2307.01952, 2.1) puts the last layers but one of both encoders beside each other, as they
    are, and pools the second one's end token.
    """
    encoders = list(modules.text_encoders.values())
    if not modules.family.pooled:
        return Embedding(_layer(encoders[0], ids[:, 0], clip_skip if modules.family.clip_skips else 1))
    outputs = [encoder(ids[:, i], output_hidden_states=True) for i, encoder in enumerate(encoders)]
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return Embedding(states, outputs[-1].text_embeds)


def conditions(embedding: Embedding, time_ids: torch.Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
    """The unet's arguments beside the latents and the timestep.

    ``time_ids`` (B, 6): original height and width, crop from the top and left, target height and width, in pixels;
    SDXL alone reads them.
    """
    told = {"encoder_hidden_states": embedding.states.to(dtype), "return_dict": False}
    if embedding.pooled is not None:
        told["added_cond_kwargs"] = {"text_embeds": embedding.pooled.to(dtype), "time_ids": time_ids}
    return told


def _tokenize(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    return tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


def _layer(text_encoder: torch.nn.Module, ids: torch.Tensor, clip_skip: int) -> torch.Tensor:
    if clip_skip <= 1:
        return text_encoder(ids)[0]
    states = text_encoder(ids, output_hidden_states=True).hidden_states
    inner = getattr(text_encoder, "text_model", text_encoder)  # transformers 5 has no text_model
    return inner.final_layer_norm(states[-min(clip_skip, len(states) - 1)])
