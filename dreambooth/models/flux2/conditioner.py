"""Qwen3's hidden states as klein's text conditioning; the same for training and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreambooth.models.conditioning import Conditioning, concatenate
from dreambooth.models.padded_tokens import PaddedTokens
from dreambooth.models.qwen.chat import MAX_LENGTH, STATES, ChatConditioner

LAYERS = (9, 18, 27)  # whose hidden states the transformer takes, as in diffusers' Flux2KleinPipeline
N_LAYERS = LAYERS[-1] + 1  # that are loaded: hidden states after the last one would be normalized


class KleinConditioner(ChatConditioner):
    """The hidden states after several layers, one after the other in each token: (B, 512, 3 D).

    Prompts are padded to 512 tokens. The text encoder doesn't attend to padding; the transformer does.
    """

    thinks, template_length = False, 12

    def join(self, batches: Sequence[PaddedTokens]) -> PaddedTokens:
        return PaddedTokens.join(batches, MAX_LENGTH)

    def encode(self, tokens: PaddedTokens) -> Conditioning:
        encoder: Any = self.text_encoder
        states = encoder(
            input_ids=tokens.ids, attention_mask=tokens.mask.long(), output_hidden_states=True, use_cache=False
        ).hidden_states
        return Conditioning({STATES: torch.cat([states[i] for i in LAYERS], dim=-1)}, lengths=tokens.lengths)

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning | None = None) -> Conditioning:
        """All have one length."""
        return concatenate(prompts)

    def batch_length(self, prompt: str) -> int:
        return MAX_LENGTH
