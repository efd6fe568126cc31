"""Lists of tensors in chunks of bounded size, so that temporaries are bounded and each operation takes one launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

CHUNK = 1 << 24  # elements; 64 MiB in float32


@dataclass(frozen=True)
class Slice:
    """Elements ``start`` to ``stop`` of the flattened tensor ``index`` of a list; ``stop`` None: the whole tensor."""

    index: int
    n: int
    start: int = 0
    stop: int | None = None

    def of(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """A view of these elements; a copy where a part of a tensor is taken that is not contiguous."""
        tensor = tensors[self.index].detach()
        return tensor if self.stop is None else tensor.reshape(-1)[self.start : self.stop]


def in_chunks(tensors: Sequence[torch.Tensor], size: int = CHUNK) -> Iterator[list[Slice]]:
    """All elements of ``tensors`` in order, in lists of at most ``size`` elements.

    A tensor is cut where it does not fit. One that is not contiguous can't be cut and may exceed ``size``.
    """
    chunk, room = list[Slice](), size
    for index, tensor in enumerate(tensors):
        for part in _parts(index, tensor, room, size):
            if part.n > room and chunk:
                yield chunk
                chunk, room = [], size
            chunk.append(part)
            room -= part.n
            if room <= 0:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk


def _parts(index: int, tensor: torch.Tensor, room: int, size: int) -> Iterator[Slice]:
    """A tensor, cut to fill ``room`` and then whole chunks of ``size``."""
    n = tensor.numel()
    if n <= room or not tensor.is_contiguous():
        yield Slice(index, n)
        return
    start = 0
    while start < n:
        stop = min(n, start + (room if start == 0 else size))
        yield Slice(index, stop - start, start, stop)
        start = stop


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """A copy of all elements as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def views(values: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The parts of the vector ``values`` that hold the elements of ``tensors``, in their shapes."""
    parts = values.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
