"""Token merging (ToMe; Bolya and Hoffman, arXiv:2303.17604): pictures in less time, with a little less detail.

Where the unet looks at a picture most finely, tokens that are much alike are averaged before self-attention, whose cost
grows with the square of their number, and all of them get what came of their average. The library of that name
(tomesd) exchanges the classes of the unet's blocks and hooks its forward pass; here only the attention processors
change hands while pictures are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CELL = 2  # one token of each CELL x CELL is merged into, the others may go: 3 of 4 at most


@contextmanager
def merged_tokens(unet: Any, share: float, size: tuple[int, int]) -> Iterator[None]:
    """Inside it ``share`` of the finest self-attention's tokens is merged; afterwards the unet is as before.

    ``size``: height and width of the latents. What is merged into is drawn by lots that are the same for every picture
    of that size.
    """
    lots = torch.Generator().manual_seed(0)
    changed = []
    try:
        for attention, tokens in _finest(unet, size) if share > 0 else ():
            before = attention.processor
            attention.set_processor(_Merging(before, share, tokens, lots))
            changed.append((attention, before))
        yield
    finally:
        for attention, before in changed:
            attention.set_processor(before)


def _finest(unet: Any, size: tuple[int, int]) -> Iterator[tuple[Any, tuple[int, int]]]:
    """The self-attentions that see the most tokens, and their rows and columns; SDXL has none at full resolution."""
    level = next(i for i, block in enumerate(unet.down_blocks) if getattr(block, "attentions", None))
    rows, columns = (-(-side // 2**level) for side in size)
    for block in (unet.down_blocks[level], unet.up_blocks[-1 - level]):
        for transformer in block.attentions:
            for layer in transformer.transformer_blocks:
                yield layer.attn1, (rows, columns)


class _Merging:
    """An attention processor around another one."""

    def __init__(self, inner: Any, share: float, tokens: tuple[int, int], lots: torch.Generator) -> None:
        self.inner, self.share, self.tokens, self.lots = inner, share, tokens, lots

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None, temb: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        more = {"attention_mask": attention_mask, "temb": temb}
        if encoder_hidden_states is not None or attention_mask is not None:  # not self-attention over all tokens
            return self.inner(attn, hidden_states, encoder_hidden_states, **more)
        merge = Merge(hidden_states, _lot_of_each_cell(*self.tokens, self.lots), self.share)
        return merge.undo(self.inner(attn, merge.of(hidden_states), None, **more))


class Merge:
    """Which tokens of ``x`` (B, N, C) go into which (the paper's bipartite matching).

    Each of those that may go looks for the one among ``stays`` (N,) bool that points most nearly its way; the closest
    ``share`` of all N go.
    """

    def __init__(self, x: torch.Tensor, stays: torch.Tensor, share: float) -> None:
        # Looked up on the CPU, where ``stays`` is: a GPU would have to finish its work first.
        self.kept, self.others = (places.nonzero()[:, 0].to(x.device) for places in (stays, ~stays))
        going = min(len(self.others), int(len(stays) * share))
        directions = torch.nn.functional.normalize(x.float(), dim=-1)
        likeness = directions[:, self.others] @ directions[:, self.kept].transpose(1, 2)
        closest, into = likeness.max(dim=-1)
        order = closest.argsort(dim=-1, descending=True, stable=True)
        self.goes, self.remains = order[:, :going], order[:, going:]
        self.into = into.gather(1, self.goes)

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N - merged, C): the tokens that remain as they are, then those that were merged into, averaged."""
        others, kept = x[:, self.others], x[:, self.kept]
        goes, remains, into = (_over(index, x) for index in (self.goes, self.remains, self.into))
        kept = kept.scatter_reduce(1, into, others.gather(1, goes), reduce="mean")
        return torch.cat([others.gather(1, remains), kept], dim=1)

    def undo(self, y: torch.Tensor) -> torch.Tensor:
        """(B, N, C) in the order of before: what was merged has what came of the average."""
        n_remaining = self.remains.shape[1]
        remaining, kept = y[:, :n_remaining], y[:, n_remaining:]
        goes, remains, into = (_over(index, y) for index in (self.goes, self.remains, self.into))
        others = y.new_empty(y.shape[0], len(self.others), y.shape[2])
        others.scatter_(1, goes, kept.gather(1, into)).scatter_(1, remains, remaining)
        whole = y.new_empty(y.shape[0], len(self.kept) + len(self.others), y.shape[2])
        whole[:, self.kept], whole[:, self.others] = kept, others
        return whole


def _over(index: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(B, n) -> (B, n, C), as gather and scatter want it."""
    return index[..., None].expand(-1, -1, x.shape[2])


def _lot_of_each_cell(rows: int, columns: int, lots: torch.Generator) -> torch.Tensor:
    """(rows * columns,) bool: one token of each cell. Where the last cell is cut off, none of it stays: all may go."""
    down, across = max(1, rows // CELL), max(1, columns // CELL)
    chosen = torch.zeros(rows, columns, dtype=torch.bool)
    y, x = (torch.randint(0, CELL, (down, across), generator=lots) for _ in range(2))
    y, x = (torch.arange(down)[:, None] * CELL + y).clamp(max=rows - 1), torch.arange(across) * CELL + x
    chosen[y, x.clamp(max=columns - 1)] = True
    return chosen.flatten()
