"""Qwen3's hidden states as Z-Image's text conditioning; the same for training and sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreambooth.models.conditioning import Conditioning, TextConditioner
from dreambooth.models.padded_tokens import PaddedTokens
from dreambooth.models.qwen.tokenizer import PAD_ID, USER, user_message
from dreambooth.models.zimage.denoiser import STATES

_MAX_LENGTH = 512  # tokens of a message, as in diffusers' ZImagePipeline; the rest is cut off
_N_BEFORE, _N_AROUND = 3, 8  # tokens of the chat template: before the prompt, and in all


class ZImageConditioner(TextConditioner[PaddedTokens]):
    """The hidden states before the last layer of Qwen3, of the prompt as a user's message.

    ``text_encoders`` and ``tokenizers``: by component name.
    """

    sequences = (STATES,)
    max_tokens = _MAX_LENGTH - _N_BEFORE

    def __init__(self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
        self.text_encoder = next(iter(text_encoders.values()), None)
        self.tokenizer = next(iter(tokenizers.values()), None)

    # -- tokens ------------------------------------------------------------------------------------------------

    def tokenize(self, prompts: Sequence[str]) -> PaddedTokens:
        ids = [encoding.ids[:_MAX_LENGTH] for encoding in self._encodings(prompts)]
        return PaddedTokens.join([PaddedTokens.of(own, PAD_ID) for own in ids])

    def join(self, batches: Sequence[PaddedTokens]) -> PaddedTokens:
        return PaddedTokens.join(batches)

    def part(self, tokens: PaddedTokens, start: int, stop: int) -> PaddedTokens:
        return tokens.part(start, stop)

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        return [
            (len(encoding.ids) - _N_AROUND, self._overflow(prompt, encoding))
            for prompt, encoding in zip(prompts, self._encodings(prompts), strict=True)
        ]

    def _encodings(self, prompts: Sequence[str]) -> list[Any]:
        tokenizer: Any = self.tokenizer
        return tokenizer.encode_batch([user_message(prompt) for prompt in prompts])

    @staticmethod
    def _overflow(prompt: str, encoding: Any) -> str:
        """The end of the prompt that is cut off."""
        if len(encoding.ids) <= _MAX_LENGTH:
            return ""
        return prompt[encoding.offsets[_MAX_LENGTH][0] - len(USER) :]

    # -- conditioning ------------------------------------------------------------------------------------------

    def encode(self, tokens: PaddedTokens) -> Conditioning:
        """A token depends on those before it alone, so that padding, which is at the end, needs no mask."""
        encoder: Any = self.text_encoder
        states = encoder(input_ids=tokens.ids, output_hidden_states=True, use_cache=False).hidden_states[-2]
        return Conditioning({STATES: states}, tokens.mask, tokens.lengths)
