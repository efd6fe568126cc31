"""Token ids to text embeddings, and the conditioning arguments of the unet; the same for training and sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from dreambooth.models.sd.emphasis import apply_emphasis
from dreambooth.models.sd.tokens import Tokens


class PromptEmbedding(NamedTuple):
    """Text conditioning: hidden states (B, 77 per chunk, D) and, for SDXL, the pooled embedding (B, P)."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def to(self, *where: Any) -> PromptEmbedding:
        return self.map(lambda tensor: tensor.to(*where))

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> PromptEmbedding:
        return PromptEmbedding(function(self.states), None if self.pooled is None else function(self.pooled))


def concatenate_embeddings(embeddings: Sequence[PromptEmbedding]) -> PromptEmbedding:
    """Join embeddings along the batch."""
    pooled = [embedding.pooled for embedding in embeddings if embedding.pooled is not None]
    return PromptEmbedding(
        torch.cat([embedding.states for embedding in embeddings]),
        torch.cat(pooled) if pooled else None,
    )


def encode_prompts(modules: Any, tokens: Tokens, clip_skip: int = 1) -> PromptEmbedding:
    """Encode tokens (see :class:`Tokens`). Chunks are encoded separately and joined, as WebUIs do.

    ``clip_skip`` counts as in the WebUI: 1 is the last layer; the final layer norm is applied to any layer. Only SD1
    uses it. SDXL (arXiv:2307.01952, section 2.1) concatenates the penultimate hidden states of both encoders, without
    that norm, and pools the end token of the second one, here that of the first chunk.
    """
    encoders = list(modules.text_encoders.values())
    n_prompts, _, n_chunks, _ = tokens.ids.shape
    ids = [tokens.ids[:, i].flatten(0, 1) for i in range(len(encoders))]
    if not modules.family.has_pooled_conditioning:
        states = [_hidden_states(encoders[0], ids[0], clip_skip if modules.family.supports_clip_skip else 1)]
        pooled = None
    else:
        outputs = [encoder(own, output_hidden_states=True) for encoder, own in zip(encoders, ids, strict=True)]
        states = [output.hidden_states[-2] for output in outputs]
        pooled = outputs[-1].text_embeds.unflatten(0, (n_prompts, n_chunks))[:, 0]
    if tokens.weights is not None:
        states = [apply_emphasis(own, tokens.weights.flatten(0, 1)) for own in states]
    concatenated = states[0] if len(states) == 1 else torch.cat(states, dim=-1)
    return PromptEmbedding(concatenated.unflatten(0, (n_prompts, n_chunks)).flatten(1, 2), pooled)


def _hidden_states(text_encoder: Any, ids: torch.Tensor, clip_skip: int) -> torch.Tensor:
    if clip_skip <= 1:
        return text_encoder(ids)[0]
    states = text_encoder(ids, output_hidden_states=True).hidden_states
    inner = getattr(text_encoder, "text_model", text_encoder)  # transformers 5 has no text_model
    return inner.final_layer_norm(states[-min(clip_skip, len(states) - 1)])
