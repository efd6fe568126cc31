"""Prompts to text embeddings, the same way for training and for pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from dreambooth.checkpoints.emphasis import apply_emphasis
from dreambooth.checkpoints.modules import Modules
from dreambooth.checkpoints.tokens import Tokens


class PromptEmbedding(NamedTuple):
    """What a unet is told of prompts: ``states`` (B, 77 for each chunk, D) and, in SDXL, ``pooled`` (B, P)."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def to(self, *where: Any) -> PromptEmbedding:
        return self.map(lambda part: part.to(*where))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PromptEmbedding:
        return PromptEmbedding(change(self.states), None if self.pooled is None else change(self.pooled))


def concatenate_embeddings(embeddings: Sequence[PromptEmbedding]) -> PromptEmbedding:
    """One batch of several."""
    pooled = [embedding.pooled for embedding in embeddings if embedding.pooled is not None]
    return PromptEmbedding(
        torch.cat([embedding.states for embedding in embeddings]),
        torch.cat(pooled) if pooled else None,
    )


def encode_prompts(modules: Modules, tokens: Tokens, clip_skip: int = 1) -> PromptEmbedding:
    """Embed tokens (see :class:`Tokens`), each chunk by itself, then laid one behind the other as WebUIs do.

    ``clip_skip`` counts as the WebUI does: 1 is the last layer, which is normalised as the last one is. It counts for
    SD1 alone. SDXL (arXiv:2307.01952, 2.1) puts the last layers but one of both encoders beside each other, as they
    are, and pools the second one's end token, here that of the first chunk.
    """
    encoders = list(modules.text_encoders.values())
    n_prompts, _, n_chunks, _ = tokens.ids.shape
    ids = [tokens.ids[:, i].flatten(0, 1) for i in range(len(encoders))]
    if not modules.family.pooled:
        states, pooled = [_layer(encoders[0], ids[0], clip_skip if modules.family.supports_clip_skip else 1)], None
    else:
        outputs = [encoder(own, output_hidden_states=True) for encoder, own in zip(encoders, ids, strict=True)]
        states = [output.hidden_states[-2] for output in outputs]
        pooled = outputs[-1].text_embeds.unflatten(0, (n_prompts, n_chunks))[:, 0]
    if tokens.weights is not None:
        states = [apply_emphasis(own, tokens.weights.flatten(0, 1)) for own in states]
    beside = states[0] if len(states) == 1 else torch.cat(states, dim=-1)
    return PromptEmbedding(beside.unflatten(0, (n_prompts, n_chunks)).flatten(1, 2), pooled)


def unet_kwargs(embedding: PromptEmbedding, time_ids: torch.Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
    """The unet's arguments beside the latents and the timestep.

    ``time_ids`` (B, 6): original height and width, crop from the top and left, target height and width, in pixels;
    SDXL alone reads them.
    """
    told = {"encoder_hidden_states": embedding.states.to(dtype), "return_dict": False}
    if embedding.pooled is not None:
        told["added_cond_kwargs"] = {"text_embeds": embedding.pooled.to(dtype), "time_ids": time_ids}
    return told


def _layer(text_encoder: Any, ids: torch.Tensor, clip_skip: int) -> torch.Tensor:
    if clip_skip <= 1:
        return text_encoder(ids)[0]
    states = text_encoder(ids, output_hidden_states=True).hidden_states
    inner = getattr(text_encoder, "text_model", text_encoder)  # transformers 5 has no text_model
    return inner.final_layer_norm(states[-min(clip_skip, len(states) - 1)])
