"""Tokens of a batch of prompts that are padded at the end to one length. torch is imported where it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class PaddedTokens(NamedTuple):
    """``ids`` (B, L) int64; ``mask`` (B, L) bool, which of them are no padding; ``lengths``: how many of them are not.

    They are padded with ``pad_id``.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    lengths: tuple[int, ...]
    pad_id: int

    @classmethod
    def of(cls, ids: Sequence[int], pad_id: int) -> PaddedTokens:
        """Those of one prompt; of one without tokens, a padding token."""
        import torch

        own = torch.tensor([list(ids) or [pad_id]])
        return cls(own, torch.full_like(own, bool(ids), dtype=torch.bool), (len(ids),), pad_id)

    @classmethod
    def join(cls, batches: Sequence[PaddedTokens], min_length: int = 0) -> PaddedTokens:
        """All prompts in one batch, padded to the longest one, or to ``min_length``."""
        import torch
        import torch.nn.functional as F

        longest, pad_id = max(min_length, *(batch.ids.shape[1] for batch in batches)), batches[0].pad_id

        def padded(part: torch.Tensor, value: int) -> torch.Tensor:
            return F.pad(part, (0, longest - part.shape[1]), value=value)

        ids = torch.cat([padded(batch.ids, pad_id) for batch in batches])
        mask = torch.cat([padded(batch.mask, 0) for batch in batches])
        return cls(ids, mask, tuple(length for batch in batches for length in batch.lengths), pad_id)

    def part(self, start: int, stop: int) -> PaddedTokens:
        """The prompts from ``start`` up to ``stop`` (exclusive)."""
        return self._replace(ids=self.ids[start:stop], mask=self.mask[start:stop], lengths=self.lengths[start:stop])

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> PaddedTokens:
        return self._replace(ids=function(self.ids), mask=function(self.mask))
