"""A denoiser's file without the prefix that its tensors have in other files of the family."""

from __future__ import annotations

import torch

from dreambooth.tensor_files import Tensors


class PrefixedTensors(Tensors):
    """``file`` with ``prefix`` before each name. Checkpoints of such a source are written without it."""

    def __init__(self, file: Tensors, prefix: str) -> None:
        self.path, self.metadata, self.notes = file.path, file.metadata, file.notes
        self.added_prefix, self._file = prefix, file
        self._names = {prefix + name: name for name in file}

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
