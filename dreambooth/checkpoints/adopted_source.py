"""The weights of a working folder of the old extension, as the single file that the model was created from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.folder_source import FolderSource
from dreambooth.files import read_json
from dreambooth.models.sd.keys import CONFIG_KEY, EMA, UNET
from dreambooth.tensor_files import Tensors

_UNSET_SAMPLE_SIZE = 32  # in folders by early versions of diffusers, whatever the model's resolution


class AdoptedSource(Tensors):
    """The weights of a working folder, in the order of the original checkpoint and with its further tensors."""

    def __init__(self, working: FolderSource, original: Tensors | None, problem: str) -> None:
        self._working, self._original, self.problem = working, original, problem
        self.path, self.metadata = working.path, dict(working.metadata)
        self.left_out = 0  # EMA tensors of the original, which are older than the trained weights
        weights = [key for key in working if not working.is_filler(key)]
        if original is not None and not self.problem:
            lacking = [key for key in weights if key not in original and not key.startswith(EMA)]
            differing = [key for key in weights if key in original and not _same_size(working, original, key)]
            if lacking or differing:
                self.problem = f"it is another model ({(lacking or differing)[0]} differs)"
        if original is None or self.problem:
            self._original, self._keys = None, dict.fromkeys(working.keys())
            return
        self.metadata = {**original.metadata, **self.metadata}
        keeps_ema = not self.has_own_ema() and _is_unet_unchanged(working, original)
        shared = [key for key in original if key in working or keeps_ema or not key.startswith(EMA)]
        self._keys = dict.fromkeys([*shared, *weights])
        self.left_out = len(original.keys()) - len(shared)

    def has_own_ema(self) -> bool:
        """Whether the folder has EMA weights."""
        return any(key.startswith(EMA) for key in self._working)

    @property
    def original_path(self) -> Path | None:
        return self._original.path if self._original else None

    def correct_metadata(self) -> None:
        """Leave out values that old folders have, or get by default, without meaning them."""
        values: dict[str, Any] = json.loads(self.metadata[CONFIG_KEY])
        if values.get("sample_size") == _UNSET_SAMPLE_SIZE and self.shape(UNET + "input_blocks.0.0.weight")[0] >= 320:
            values.pop("sample_size")
        scheduler = self.path / "scheduler" / "scheduler_config.json"
        if not (scheduler.is_file() and "prediction_type" in read_json(scheduler)):
            values.pop("prediction_type", None)
        self.metadata[CONFIG_KEY] = json.dumps(values)

    def close(self) -> None:
        self._working.close()

    def keys(self) -> list[str]:
        return list(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def shape(self, key: str) -> tuple[int, ...]:
        return self._of(key).shape(key)

    def dtype(self, key: str) -> torch.dtype:
        file = self._working if key in self._working and not self._working.is_filler(key) else self._of(key)
        return file.dtype(key)

    def get(self, key: str) -> torch.Tensor:
        if key in self._working and not self._working.is_filler(key):
            return self._working.get(key).reshape(self.shape(key))
        return self._of(key).get(key)

    def _of(self, key: str) -> Tensors:
        return self._original if self._original is not None and key in self._original else self._working

    def original_dtype(self, key: str) -> torch.dtype | None:
        return self._original.dtype(key) if self._original is not None and key in self._original else None


def _same_size(working: Tensors, original: Tensors, key: str) -> bool:
    """The same shape, apart from the last dimensions of a 1x1 convolution."""
    shapes = [file.shape(key) for file in (working, original)]
    squeezed = [shape[:2] if shape[2:] == (1, 1) else shape for shape in shapes]
    return squeezed[0] == squeezed[1]


def _is_unet_unchanged(working: Tensors, original: Tensors) -> bool:
    """Whether the original's EMA weights, if it has any, still belong to the unet. Stops at the first difference."""
    if not any(key.startswith(EMA) for key in original):
        return False

    def is_equal(key: str) -> bool:
        value = working.get(key)
        return torch.equal(value.flatten(), original.get(key).to(value.dtype).flatten())

    return all(is_equal(key) for key in working if key.startswith(UNET))
