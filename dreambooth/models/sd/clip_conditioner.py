"""CLIP's hidden states as Stable Diffusion's text conditioning; the same for training and sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dreambooth.models.conditioning import Conditioning, TextConditioner, concatenate
from dreambooth.models.sd.emphasis import apply_emphasis
from dreambooth.models.sd.tokenizer import shipped_tokenizer
from dreambooth.models.sd.tokens import (
    CHUNK_LENGTH,
    CONTEXT_LENGTH,
    PromptEncoding,
    Tokens,
    collate_tokens,
    count_chunks,
    count_tokens,
    count_with_overflow,
    n_chunks_of,
    tokenize,
)
from dreambooth.settings import SETTINGS

if TYPE_CHECKING:
    import torch

STATES, POOLED = "states", "pooled"  # hidden states (B, 77 per chunk, D); SDXL's pooled embedding (B, P)


class ClipConditioner(TextConditioner[Tokens]):
    """CLIP's text encoders. Chunks of a prompt are encoded separately and joined, as WebUIs do.

    ``text_encoders`` and ``tokenizers``: by component name, in the same order.
    """

    max_token_choices = tuple(SETTINGS["max_token_length"].choices)
    unit = f"chunks of {CHUNK_LENGTH} tokens"

    def __init__(
        self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], prompt_encoding: PromptEncoding
    ) -> None:
        self.text_encoders, self.tokenizers = list(text_encoders.values()), list(tokenizers.values())
        self.prompt_encoding, self.max_tokens = prompt_encoding, prompt_encoding.max_tokens
        self.pads_with_empty_prompt = self.max_tokens > CHUNK_LENGTH

    # -- tokens ------------------------------------------------------------------------------------------------

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        return tokenize(self.tokenizers, prompts, self.prompt_encoding)

    def join(self, batches: Sequence[Tokens]) -> Tokens:
        return collate_tokens(batches, self.tokenizers)

    def part(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        return tokens.part(start, stop)

    def count(self, prompt: str) -> int:
        return count_tokens(self.tokenizers[0], prompt, self.prompt_encoding)

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        return count_with_overflow(self.tokenizers[0], prompts, self.prompt_encoding)

    def batch_length(self, prompt: str) -> int:
        """The number of chunks."""
        return count_chunks(self.tokenizers[0], prompt, self.prompt_encoding)

    # -- conditioning ------------------------------------------------------------------------------------------

    def encode(self, tokens: Tokens) -> Conditioning:
        n_prompts, n_encoders, n_chunks, _ = tokens.ids.shape
        ids = [tokens.ids[:, i].flatten(0, 1) for i in range(n_encoders)]
        states, pooled = self._run_encoders(ids)
        if tokens.weights is not None:
            states = [apply_emphasis(own, tokens.weights.flatten(0, 1)) for own in states]
        tensors = {STATES: _concatenated(states).unflatten(0, (n_prompts, n_chunks)).flatten(1, 2)}
        if pooled is not None:
            tensors[POOLED] = pooled.unflatten(0, (n_prompts, n_chunks))[:, 0]
        return Conditioning(tensors, lengths=tokens.lengths)

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning | None = None) -> Conditioning:
        """Prompts of fewer chunks are padded with chunks of the empty prompt."""
        longest = max(prompt[STATES].shape[1] for prompt in prompts)
        return concatenate([_padded(prompt, longest, empty) for prompt in prompts])

    def trim(self, conditioning: Conditioning) -> Conditioning:
        """As long as the longest prompt: CLIP's padding is part of the conditioning, not masked."""
        return conditioning.replace(**{STATES: conditioning[STATES][:, : max(conditioning.lengths)]})

    def _run_encoders(self, ids: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Hidden states (B, 77, D) of each encoder and the pooled embedding (B, P), from chunks of ids (B, 77).

        Clip skip counts as in the WebUI: 1 is the last layer; the final layer norm is applied to any layer.
        """
        (encoder,), (own,) = self.text_encoders, ids
        return [_hidden_states(encoder, own, self.prompt_encoding.clip_skip)], None


class SDXLConditioner(ClipConditioner):
    """SDXL (arXiv:2307.01952, 2.1) concatenates the penultimate hidden states of both encoders, without the final layer
    norm, and pools the end token of the second one, here that of the first chunk. It has no clip skip.
    """

    def unconditional(self, negative: Conditioning, prompts: Sequence[str]) -> Conditioning:
        """It was trained with zeros for an empty prompt."""
        import torch

        is_empty = torch.tensor([not prompt for prompt in prompts], device=negative.device)
        return negative.map(lambda part: part.masked_fill(is_empty.view(-1, *[1] * (part.dim() - 1)), 0))

    def _run_encoders(self, ids: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        outputs = [
            encoder(own, output_hidden_states=True) for encoder, own in zip(self.text_encoders, ids, strict=True)
        ]
        return [output.hidden_states[-2] for output in outputs], outputs[-1].text_embeds


def without_clip_skip(prompt_encoding: PromptEncoding) -> PromptEncoding:
    """For families whose denoiser was trained with one layer, whatever the setting is."""
    return dataclasses.replace(prompt_encoding, clip_skip=1)


def shipped_conditioner(prompt_encoding: PromptEncoding) -> ClipConditioner:
    """For counting tokens without a model, with the tokenizer of Stable Diffusion 1."""
    return ClipConditioner({}, {"tokenizer": shipped_tokenizer()}, prompt_encoding)


def cached_bytes(n_tokens: int, width: int, pooled: int) -> int:
    """Bytes of a prompt in the cache, float32. ``width`` of the hidden states; ``pooled``: of that embedding, or 0."""
    return (n_chunks_of(n_tokens) * CONTEXT_LENGTH * width + pooled) * 4


def default_embedding_bytes(n_tokens: int) -> int:
    """The same for the published models of Stable Diffusion 1."""
    return cached_bytes(n_tokens, width=768, pooled=0)


def _hidden_states(text_encoder: Any, ids: torch.Tensor, clip_skip: int) -> torch.Tensor:
    if clip_skip <= 1:
        return text_encoder(ids)[0]
    states = text_encoder(ids, output_hidden_states=True).hidden_states
    inner = getattr(text_encoder, "text_model", text_encoder)  # transformers 5 has no text_model
    return inner.final_layer_norm(states[-min(clip_skip, len(states) - 1)])


def _concatenated(states: Sequence[torch.Tensor]) -> torch.Tensor:
    """Along the width."""
    import torch

    return states[0] if len(states) == 1 else torch.cat(list(states), dim=-1)


def _padded(prompt: Conditioning, length: int, empty: Conditioning | None) -> Conditioning:
    import torch

    missing = (length - prompt[STATES].shape[1]) // CONTEXT_LENGTH
    if not missing:
        return prompt
    if empty is None:
        raise ValueError("the empty prompt is needed for padding")
    return prompt.replace(**{STATES: torch.cat([prompt[STATES], *[empty[STATES]] * missing], dim=1)})
