"""Page-locked (pinned) main memory, from and to which a GPU copies while it computes."""

from __future__ import annotations

import logging

import torch

from dreambooth.errors import first_sentence

CHUNK = 1 << 28  # bytes; torch rounds each pinned allocation up to a power of two
_ALIGNMENT = 64

log = logging.getLogger("dreambooth.memory")


class PinnedMemory:
    """Allocates tensors in large pinned chunks, which are freed with the last tensor in them.

    Where the system grants no more page-locked memory, tensors are in pageable memory: copies then block, and one
    warning says so.
    """

    def __init__(self) -> None:
        self.is_pinned = True
        self._room: torch.Tensor | None = None  # what is left of a chunk

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """An uninitialized tensor in main memory with the shape, strides and dtype of ``tensor``, which is dense."""
        n_bytes = -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        if self._room is None or self._room.numel() < n_bytes:
            self._room = self._allocate(max(n_bytes, CHUNK))
        taken, self._room = self._room[:n_bytes], self._room[n_bytes:]
        return taken[: tensor.nbytes].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())

    def _allocate(self, n_bytes: int) -> torch.Tensor:
        if self.is_pinned:
            try:
                return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:
                self.is_pinned = False
                log.warning(
                    "The system grants no more page-locked memory (%s): weights are copied from ordinary memory, which "
                    "is slower. Lower offload_fraction, or raise the limit of locked memory.",
                    first_sentence(error),
                )
        return torch.empty(n_bytes, dtype=torch.uint8)
