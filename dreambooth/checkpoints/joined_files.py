"""Several weight files presented as one: the shards of a component."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.models.dequantized import dequantized
from dreambooth.tensor_files import Tensors


def open_joined(paths: Sequence[Path]) -> Tensors:
    """The tensors of all files, which are at least one, dequantized. UserError as of :func:`open_tensors`."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_tensors(path)) for path in paths]
        joined = dequantized(files[0] if len(files) == 1 else _JoinedFiles(files))
        stack.pop_all()
        return joined


class _JoinedFiles(Tensors):
    """``path`` and ``metadata`` are those of the first file."""

    def __init__(self, files: Sequence[Tensors]) -> None:
        self.path, self.metadata = files[0].path, files[0].metadata
        self._files = files
        self._owners = {key: file for file in files for key in file}

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for file in self._files:
                stack.callback(file.close)

    def keys(self) -> list[str]:
        return list(self._owners)

    def __contains__(self, key: str) -> bool:
        return key in self._owners

    def shape(self, key: str) -> tuple[int, ...]:
        return self._owners[key].shape(key)

    def dtype(self, key: str) -> torch.dtype:
        return self._owners[key].dtype(key)

    def get(self, key: str) -> torch.Tensor:
        return self._owners[key].get(key)
