"""Qwen3's hidden states as Z-Image's text conditioning; the same for training and sampling."""

from __future__ import annotations

from typing import Any

from dreambooth.models.conditioning import Conditioning
from dreambooth.models.padded_tokens import PaddedTokens
from dreambooth.models.qwen.chat import STATES, ChatConditioner


class ZImageConditioner(ChatConditioner):
    """The hidden states before the last layer of Qwen3, as in diffusers' ZImagePipeline."""

    thinks, template_length = True, 8

    def encode(self, tokens: PaddedTokens) -> Conditioning:
        """A token depends on those before it alone, so that padding, which is at the end, needs no mask."""
        encoder: Any = self.text_encoder
        states = encoder(input_ids=tokens.ids, output_hidden_states=True, use_cache=False).hidden_states[-2]
        return Conditioning({STATES: states}, tokens.mask, tokens.lengths)
