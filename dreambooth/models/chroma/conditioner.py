"""T5's hidden states as Chroma's text conditioning; the same for training and sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.models.chroma.denoiser import STATES
from dreambooth.models.conditioning import Conditioning, TextConditioner
from dreambooth.models.padded_tokens import PaddedTokens
from dreambooth.models.t5.prompts import MAX_LENGTH, count_with_overflow, t5_ids
from dreambooth.models.t5.tokenizer import PAD_ID

if TYPE_CHECKING:
    import torch

T5 = "text_encoder"  # the component


class ChromaTokens(NamedTuple):
    """``tokens``: T5's, with one token of padding, which the transformer attends to, where there is room for it; in T5
    it is masked, as ``encoded`` (B, L) bool says.
    """

    tokens: PaddedTokens
    encoded: torch.Tensor

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> ChromaTokens:
        return ChromaTokens(self.tokens.map(function), function(self.encoded))


class ChromaConditioner(TextConditioner[ChromaTokens]):
    """T5's last hidden states. All padding but one token is masked, as Chroma was trained.

    ``text_encoders`` and ``tokenizers``: by component name.
    """

    sequences = (STATES,)
    max_tokens = MAX_LENGTH - 1

    def __init__(self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
        self.text_encoders, self.tokenizers = text_encoders, tokenizers

    # -- tokens ------------------------------------------------------------------------------------------------

    def tokenize(self, prompts: Sequence[str]) -> ChromaTokens:
        return self.join([_tokens(ids) for ids in t5_ids(self.tokenizers[T5], prompts)])

    def join(self, batches: Sequence[ChromaTokens]) -> ChromaTokens:
        import torch
        import torch.nn.functional as F

        tokens = PaddedTokens.join([batch.tokens for batch in batches])
        longest = tokens.ids.shape[1]
        encoded = [F.pad(batch.encoded, (0, longest - batch.encoded.shape[1]), value=False) for batch in batches]
        return ChromaTokens(tokens, torch.cat(encoded))

    def part(self, tokens: ChromaTokens, start: int, stop: int) -> ChromaTokens:
        return ChromaTokens(tokens.tokens.part(start, stop), tokens.encoded[start:stop])

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        return count_with_overflow(self.tokenizers[T5], prompts)

    # -- conditioning ------------------------------------------------------------------------------------------

    def encode(self, tokens: ChromaTokens) -> Conditioning:
        own = tokens.tokens
        states = self.text_encoders[T5](input_ids=own.ids, attention_mask=tokens.encoded)[0]
        return Conditioning({STATES: states}, own.mask, own.lengths)


def _tokens(ids: Sequence[int]) -> ChromaTokens:
    import torch

    tokens = PaddedTokens.of([*ids, PAD_ID][:MAX_LENGTH], PAD_ID)
    return ChromaTokens(tokens, torch.arange(tokens.ids.shape[1])[None] < len(ids))
