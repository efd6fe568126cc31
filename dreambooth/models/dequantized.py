"""Files with weights in 8 bits and scales beside them (fp8_scaled, ComfyUI's fp8 and int8), presented without scales.

Each weight is dequantized when it is read. Plain fp8, which needs no scales, is not changed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from dreambooth.errors import UserError
from dreambooth.tensor_files import Tensors

_SCALES = (".scale_weight", ".weight_scale")  # of "X.weight"
_FORMAT = ".comfy_quant"  # JSON with the format of "X.weight"
_WITHOUT_USE = (_FORMAT, ".input_scale", ".scale_input")
_MARKER = "scaled_fp8"  # an empty tensor
_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_rowwise")
_DTYPE = torch.bfloat16  # of what is read: fp16 could overflow
_INSTEAD = "use a file in bf16, fp16, fp8 or int8"


def dequantized(file: Tensors) -> Tensors:
    """``file`` itself, or a view of it without scales, if it has some. UserError for a format that can't be read."""
    scales = {f"{key.removesuffix(ending)}.weight": key for key in file for ending in _SCALES if key.endswith(ending)}
    if not scales:
        return file
    for key in file:
        if key.endswith(_FORMAT):
            _require_known_format(file, key)
    scales = {weight: scale for weight, scale in scales.items() if weight in file}
    for weight, scale in scales.items():
        if _rows_and_blocks(file.shape(weight), file.shape(scale)) is None or file.dtype(weight).itemsize != 1:
            shape = "x".join(map(str, file.shape(scale)))
            raise UserError(f"{file.path} is quantized in a format that can't be read ({scale}, {shape}): {_INSTEAD}.")
    return _Dequantized(file, scales)


class _Dequantized(Tensors):
    """``scales``: the names of scales by the names of their weights."""

    def __init__(self, file: Tensors, scales: Mapping[str, str]) -> None:
        self.path, self.metadata = file.path, file.metadata
        self.added_prefix, self.own_prefix, self._file, self._scales = file.added_prefix, file.own_prefix, file, scales
        note = "its quantized weights (8 bits with scales) are dequantized to bf16. Checkpoints of it are in bf16"
        self.notes = (*file.notes, note)
        hidden = {*scales.values()}
        self._keys = [key for key in file if key not in hidden and not key.endswith((*_WITHOUT_USE, _MARKER))]

    def path_of(self, key: str) -> Path:
        return self._file.path_of(key)

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        return self._keys

    def __contains__(self, key: str) -> bool:
        return key in self._file and not key.endswith((*_SCALES, *_WITHOUT_USE, _MARKER))

    def shape(self, key: str) -> tuple[int, ...]:
        return self._file.shape(key)

    def dtype(self, key: str) -> torch.dtype:
        return _DTYPE if key in self._scales else self._file.dtype(key)

    def get(self, key: str) -> torch.Tensor:
        tensor = self._file.get(key)
        if key not in self._scales:
            return tensor
        scale = self._file.get(self._scales[key]).float()
        blocks = _rows_and_blocks(tuple(tensor.shape), tuple(scale.shape)) or (1, 1)
        grouped = tensor.float().reshape(blocks[0], blocks[1], -1)
        return (grouped * scale.reshape(*blocks, 1)).reshape(tensor.shape).to(_DTYPE)


def _rows_and_blocks(weight: tuple[int, ...], scale: tuple[int, ...]) -> tuple[int, int] | None:
    """Into how many parts the rows and columns of a weight are divided, each with its scale; None if it is unknown.

    There is one scale in all, one for each row, or one for each of equal blocks of each row.
    """
    numel = 1
    for side in scale:
        numel *= side
    if numel == 1:
        return 1, 1
    rows, n_blocks = weight[0], numel // weight[0]
    is_known = scale[0] == rows and numel == rows * n_blocks and not weight[1] % n_blocks
    return (rows, n_blocks) if is_known else None


def _require_known_format(file: Tensors, key: str) -> None:
    try:
        values = json.loads(bytes(file.get(key).to(torch.uint8).tolist()))
        kind = str(values["format"])
        is_known = kind in _FORMATS and not any("rot" in name and value for name, value in values.items())
    except (ValueError, LookupError, TypeError):
        kind, is_known = "unknown", False
    if not is_known:
        raise UserError(f"{file.path} is quantized in a format that can't be read ({kind}): {_INSTEAD}.")
