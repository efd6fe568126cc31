"""Qwen3's hidden states as Z-Image's text conditioning; the same for training and sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.models.conditioning import Conditioning, TextConditioner
from dreambooth.models.qwen.tokenizer import PAD_ID, USER, user_message
from dreambooth.models.zimage.denoiser import STATES

if TYPE_CHECKING:
    import torch

_MAX_LENGTH = 512  # tokens of a message, as in diffusers' ZImagePipeline; the rest is cut off
_N_BEFORE, _N_AROUND = 3, 8  # tokens of the chat template: before the prompt, and in all


class ChatTokens(NamedTuple):
    """Prompts in the chat template, padded at the end to one length: ids (B, L) int64, mask (B, L) bool."""

    ids: torch.Tensor
    mask: torch.Tensor
    lengths: tuple[int, ...]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> ChatTokens:
        return ChatTokens(function(self.ids), function(self.mask), self.lengths)


class ZImageConditioner(TextConditioner[ChatTokens]):
    """The hidden states before the last layer of Qwen3, of the prompt as a user's message.

    ``text_encoders`` and ``tokenizers``: by component name.
    """

    sequences = (STATES,)
    max_tokens = _MAX_LENGTH - _N_BEFORE

    def __init__(self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
        self.text_encoder = next(iter(text_encoders.values()), None)
        self.tokenizer = next(iter(tokenizers.values()), None)

    # -- tokens ------------------------------------------------------------------------------------------------

    def tokenize(self, prompts: Sequence[str]) -> ChatTokens:
        return self.join([self._tokens(encoding.ids[:_MAX_LENGTH]) for encoding in self._encodings(prompts)])

    def join(self, batches: Sequence[ChatTokens]) -> ChatTokens:
        import torch
        import torch.nn.functional as F

        longest = max(batch.ids.shape[1] for batch in batches)

        def padded(part: torch.Tensor, value: int) -> torch.Tensor:
            return F.pad(part, (0, longest - part.shape[1]), value=value)

        ids = torch.cat([padded(batch.ids, PAD_ID) for batch in batches])
        mask = torch.cat([padded(batch.mask, 0) for batch in batches])
        return ChatTokens(ids, mask, tuple(length for batch in batches for length in batch.lengths))

    def part(self, tokens: ChatTokens, start: int, stop: int) -> ChatTokens:
        return ChatTokens(tokens.ids[start:stop], tokens.mask[start:stop], tokens.lengths[start:stop])

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        return [
            (len(encoding.ids) - _N_AROUND, self._overflow(prompt, encoding))
            for prompt, encoding in zip(prompts, self._encodings(prompts), strict=True)
        ]

    def _encodings(self, prompts: Sequence[str]) -> list[Any]:
        tokenizer: Any = self.tokenizer
        return tokenizer.encode_batch([user_message(prompt) for prompt in prompts])

    @staticmethod
    def _tokens(ids: Sequence[int]) -> ChatTokens:
        import torch

        own = torch.tensor([ids])
        return ChatTokens(own, torch.ones_like(own, dtype=torch.bool), (len(ids),))

    @staticmethod
    def _overflow(prompt: str, encoding: Any) -> str:
        """The end of the prompt that is cut off."""
        if len(encoding.ids) <= _MAX_LENGTH:
            return ""
        return prompt[encoding.offsets[_MAX_LENGTH][0] - len(USER) :]

    # -- conditioning ------------------------------------------------------------------------------------------

    def encode(self, tokens: ChatTokens) -> Conditioning:
        """A token depends on those before it alone, so that padding, which is at the end, needs no mask."""
        encoder: Any = self.text_encoder
        states = encoder(input_ids=tokens.ids, output_hidden_states=True, use_cache=False).hidden_states[-2]
        return Conditioning({STATES: states}, tokens.mask, tokens.lengths)
