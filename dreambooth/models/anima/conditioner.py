"""The adapter's output as Anima's text conditioning; the same for training and sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.models.anima.denoiser import STATES
from dreambooth.models.conditioning import Conditioning, TextConditioner
from dreambooth.models.padded_tokens import PaddedTokens
from dreambooth.models.qwen.tokenizer import PAD_ID as QWEN_PAD_ID
from dreambooth.models.t5.tokenizer import END_ID, PAD_ID

if TYPE_CHECKING:
    import torch

ENCODER, ADAPTER = "text_encoder", "text_conditioner"  # the components
_MAX_LENGTH = 512  # tokens of Qwen, and of T5 with its end token, as in diffusers' AnimaModularPipeline


class AnimaTokens(NamedTuple):
    """Prompts as the text encoder (Qwen) and as the adapter (T5) take them."""

    qwen: PaddedTokens
    t5: PaddedTokens

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> AnimaTokens:
        return AnimaTokens(self.qwen.map(function), self.t5.map(function))


class AnimaConditioner(TextConditioner[AnimaTokens]):
    """T5's tokens, which attend to the last hidden states of Qwen3 in the adapter.

    ``text_encoders`` (with the adapter) and ``tokenizers``: by component name.
    """

    sequences = (STATES,)
    max_tokens = _MAX_LENGTH - 1

    def __init__(self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
        self.text_encoder, self.adapter = text_encoders.get(ENCODER), text_encoders.get(ADAPTER)
        self.qwen_tokenizer, self.t5_tokenizer = tokenizers.get(ENCODER), tokenizers.get(ADAPTER)

    # -- tokens ------------------------------------------------------------------------------------------------

    def tokenize(self, prompts: Sequence[str]) -> AnimaTokens:
        return self.join([self._tokens(qwen.ids, t5.ids) for qwen, t5 in self._encodings(prompts)])

    def join(self, batches: Sequence[AnimaTokens]) -> AnimaTokens:
        return AnimaTokens(
            PaddedTokens.join([batch.qwen for batch in batches]), PaddedTokens.join([batch.t5 for batch in batches])
        )

    def part(self, tokens: AnimaTokens, start: int, stop: int) -> AnimaTokens:
        return AnimaTokens(tokens.qwen.part(start, stop), tokens.t5.part(start, stop))

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        """T5's tokens without the end token, or Qwen's where only they are too many."""
        return [self._count(prompt, *own) for prompt, own in zip(prompts, self._encodings(prompts), strict=True)]

    def _encodings(self, prompts: Sequence[str]) -> list[tuple[Any, Any]]:
        qwen, t5 = self.qwen_tokenizer, self.t5_tokenizer
        assert qwen is not None and t5 is not None
        return list(zip(qwen.encode_batch(list(prompts)), t5.encode_batch(list(prompts)), strict=True))

    @staticmethod
    def _tokens(qwen: Sequence[int], t5: Sequence[int]) -> AnimaTokens:
        kept = [*t5[: _MAX_LENGTH - 1], END_ID] if len(t5) > _MAX_LENGTH else t5
        return AnimaTokens(PaddedTokens.of(qwen[:_MAX_LENGTH], QWEN_PAD_ID), PaddedTokens.of(kept, PAD_ID))

    def _count(self, prompt: str, qwen: Any, t5: Any) -> tuple[int, str]:
        ends = [len(prompt)]
        if len(t5.ids) > _MAX_LENGTH:
            ends.append(t5.offsets[_MAX_LENGTH - 1][0])
        if len(qwen.ids) > _MAX_LENGTH:
            ends.append(qwen.offsets[_MAX_LENGTH][0])
        n_t5 = len(t5.ids) - 1
        is_longer = n_t5 <= self.max_tokens < len(qwen.ids) - 1
        return (len(qwen.ids) - 1 if is_longer else n_t5), prompt[min(ends) :]

    # -- conditioning ------------------------------------------------------------------------------------------

    def encode(self, tokens: AnimaTokens) -> Conditioning:
        """A token of Qwen depends on those before it alone, so that padding needs no mask there."""
        encoder, adapter = self.text_encoder, self.adapter
        assert encoder is not None and adapter is not None
        hidden = encoder(input_ids=tokens.qwen.ids, use_cache=False).last_hidden_state
        hidden = hidden * tokens.qwen.mask.to(hidden.dtype).unsqueeze(-1)
        states = adapter(hidden, tokens.qwen.mask, tokens.t5.ids, tokens.t5.mask)
        return Conditioning({STATES: states}, tokens.t5.mask, tokens.t5.lengths)
