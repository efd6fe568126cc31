"""A file whose tensors have other names than those that its family knows, presented with the latter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from dreambooth.models.transforms import IDENTITY, Transform
from dreambooth.tensor_files import Tensors


class RenamedTensors(Tensors):
    """``sources``: the tensors of ``file`` that each one consists of, by its name; ``transforms``: from the latter to
    the former, for those that don't consist of one that is equal. Checkpoints are written with the new names.
    """

    def __init__(
        self,
        file: Tensors,
        sources: Mapping[str, tuple[str, ...]],
        transforms: Mapping[str, Transform],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path, self.metadata, self.notes = file.path, file.metadata, (*file.notes, *notes)
        self._file, self._sources, self._transforms = file, sources, transforms

    def path_of(self, key: str) -> Path:
        return self._file.path_of(key)

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        return list(self._sources)

    def __contains__(self, key: str) -> bool:
        return key in self._sources

    def shape(self, key: str) -> tuple[int, ...]:
        return self._transform(key).original_shape([self._file.shape(name) for name in self._sources[key]])

    def dtype(self, key: str) -> torch.dtype:
        return self._file.dtype(self._sources[key][0])

    def get(self, key: str) -> torch.Tensor:
        return self._transform(key).join([self._file.get(name) for name in self._sources[key]])

    def _transform(self, key: str) -> Transform:
        return self._transforms.get(key, IDENTITY)
