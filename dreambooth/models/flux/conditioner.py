"""T5's hidden states and CLIP's pooled embedding as FLUX.1's text conditioning; the same for training and sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth.models.conditioning import Conditioning, TextConditioner, concatenate
from dreambooth.models.flux.denoiser import POOLED, STATES
from dreambooth.models.sd.tokens import CONTEXT_LENGTH
from dreambooth.models.t5.prompts import MAX_LENGTH, count_with_overflow, t5_ids
from dreambooth.models.t5.tokenizer import PAD_ID

if TYPE_CHECKING:
    import torch

CLIP, T5 = "text_encoder", "text_encoder_2"  # the components


class FluxTokens(NamedTuple):
    """Prompts as CLIP takes them, (B, context length) int64, and as T5 does, (B, 512), both padded to these lengths.

    ``lengths``: T5's tokens without padding.
    """

    clip: torch.Tensor
    t5: torch.Tensor
    lengths: tuple[int, ...]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> FluxTokens:
        return self._replace(clip=function(self.clip), t5=function(self.t5))


class FluxConditioner(TextConditioner[FluxTokens]):
    """T5's last hidden states, whose padding is not masked, neither there nor in the transformer, and CLIP's pooled
    embedding, in which the prompt is cut off sooner.

    ``text_encoders`` and ``tokenizers``: by component name.
    """

    sequences = (STATES,)
    max_tokens = MAX_LENGTH - 1

    def __init__(self, text_encoders: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
        self.text_encoders, self.tokenizers = text_encoders, tokenizers

    # -- tokens ------------------------------------------------------------------------------------------------

    def tokenize(self, prompts: Sequence[str]) -> FluxTokens:
        import torch

        clip = self.tokenizers[CLIP](
            list(prompts), padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
        )
        ids = t5_ids(self.tokenizers[T5], prompts)
        padded = torch.tensor([own + [PAD_ID] * (MAX_LENGTH - len(own)) for own in ids])
        return FluxTokens(clip.input_ids, padded, tuple(map(len, ids)))

    def join(self, batches: Sequence[FluxTokens]) -> FluxTokens:
        import torch

        lengths = tuple(length for batch in batches for length in batch.lengths)
        return FluxTokens(torch.cat([batch.clip for batch in batches]), torch.cat([own.t5 for own in batches]), lengths)

    def part(self, tokens: FluxTokens, start: int, stop: int) -> FluxTokens:
        return FluxTokens(tokens.clip[start:stop], tokens.t5[start:stop], tokens.lengths[start:stop])

    def count_with_overflow(self, prompts: Sequence[str]) -> list[tuple[int, str]]:
        """Of T5."""
        return count_with_overflow(self.tokenizers[T5], prompts)

    def batch_length(self, prompt: str) -> int:
        """All prompts have one length."""
        return MAX_LENGTH

    # -- conditioning ------------------------------------------------------------------------------------------

    def encode(self, tokens: FluxTokens) -> Conditioning:
        pooled = self.text_encoders[CLIP](input_ids=tokens.clip).pooler_output
        states = self.text_encoders[T5](input_ids=tokens.t5)[0]
        return Conditioning({STATES: states, POOLED: pooled}, lengths=tokens.lengths)

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning | None = None) -> Conditioning:
        return concatenate(prompts)
