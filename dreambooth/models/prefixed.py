"""A denoiser's file whose tensors have another prefix than in other files of the family, or none."""

from __future__ import annotations

import torch

from dreambooth.tensor_files import Tensors


class PrefixedTensors(Tensors):
    """``file`` with ``prefix`` before each name, in place of ``own_prefix``, which all of its names have.

    Checkpoints of such a source are written with the latter.
    """

    def __init__(self, file: Tensors, prefix: str, own_prefix: str = "") -> None:
        self.path, self.metadata, self.notes = file.path, file.metadata, file.notes
        self.added_prefix, self.own_prefix, self._file = prefix, own_prefix, file
        self._names = {prefix + name.removeprefix(own_prefix): name for name in file}

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        return list(self._names)

    def __contains__(self, key: str) -> bool:
        return key in self._names

    def shape(self, key: str) -> tuple[int, ...]:
        return self._file.shape(self._names[key])

    def dtype(self, key: str) -> torch.dtype:
        return self._file.dtype(self._names[key])

    def get(self, key: str) -> torch.Tensor:
        return self._file.get(self._names[key])
