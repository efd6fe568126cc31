"""Qwen3's hidden states of prompts, each as the message of a user in a chat, as text conditioning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dreambooth.models.conditioning import TextConditioner
from dreambooth.models.padded_tokens import PaddedTokens
from dreambooth.models.qwen.tokenizer import PAD_ID, USER, user_message

STATES = "states"  # hidden states of the text encoder, (B, L, D)
MAX_LENGTH = 512  # tokens of a chat, as in diffusers' pipelines; the rest is cut off
_N_BEFORE = 3  # tokens of the chat template before the prompt


class ChatConditioner(TextConditioner[PaddedTokens]):
    """``text_encoders`` and ``tokenizers``: by component name. Subclasses encode.

    ``thinks``: whether the model may think before it answers; ``template_length``: tokens of the chat template.
    """

    sequences = (STATES,)
    max_tokens = MAX_LENGTH - _N_BEFORE
    thinks: ClassVar[bool]
    template_length: ClassVar[int]

    def __init__(self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
        self.text_encoder = next(iter(text_encoders.values()), None)
        self.tokenizer = next(iter(tokenizers.values()), None)

    def tokenize(self, prompts: Sequence[str]) -> PaddedTokens:
        ids = [encoding.ids[:MAX_LENGTH] for encoding in self._encodings(prompts)]
        return self.join([PaddedTokens.of(own, PAD_ID) for own in ids])

    def join(self, batches: Sequence[PaddedTokens]) -> PaddedTokens:
        return PaddedTokens.join(batches)

    def part(self, tokens: PaddedTokens, start: int, stop: int) -> PaddedTokens:
        return tokens.part(start, stop)

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        return [
            (len(encoding.ids) - self.template_length, self._overflow(prompt, encoding))
            for prompt, encoding in zip(prompts, self._encodings(prompts), strict=True)
        ]

    def _encodings(self, prompts: Sequence[str]) -> list[Any]:
        tokenizer: Any = self.tokenizer
        return tokenizer.encode_batch([user_message(prompt, self.thinks) for prompt in prompts])

    @staticmethod
    def _overflow(prompt: str, encoding: Any) -> str:
        """The end of the prompt that is cut off."""
        if len(encoding.ids) <= MAX_LENGTH:
            return ""
        return prompt[encoding.offsets[MAX_LENGTH][0] - len(USER) :]
