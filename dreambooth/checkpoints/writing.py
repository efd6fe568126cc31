"""Writing safetensors in a stream: the header first, then each tensor as it comes, so none need be held."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.checkpoints.reading import DTYPES
from dreambooth.errors import UserError

_IN_CACHE = 1 << 16  # elements; converting so few at a time never goes through main memory
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Spec:
    """What a tensor will be, before it is there."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorWriter:
    """Writes ``specs`` in the header in the order given; tensors may then come in any order.

    The data follows :func:`data_order`, not the header's.
    """

    def __init__(self, path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str] | None = None):
        self.specs, self._missing = dict(specs), set(specs)
        self._starts: dict[str, int] = {}
        end = 0
        for name in data_order(self.specs):
            self._starts[name] = end
            end += self.specs[name].n_bytes
        header = _header(self.specs, self._starts, metadata)
        self._data_start = len(header)
        self._file = open(path, "wb")  # noqa: SIM115 (closed by the context manager below)
        self._file.write(header)

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(self, exception_type: object, *_: object) -> None:
        self._file.close()
        if exception_type is None and self._missing:
            raise ValueError(f"never written: {sorted(self._missing)}")

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor, which must be what its spec says."""
        spec = self.specs[name]
        if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, announced as {spec}")
        self._file.seek(self._data_start + self._starts[name])
        self._file.write(tensor_bytes(tensor))
        self._missing.discard(name)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors that are all at hand. In place: callers wrap it in ``files.replacing``."""
    specs = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with TensorWriter(path, specs, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


def data_order(specs: Mapping[str, Spec]) -> list[str]:
    """Names in the order of their data: widest dtype first, so that readers that map the file find each aligned."""
    return sorted(specs, key=lambda name: -specs[name].dtype.itemsize)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes in memory order, without a copy where it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def tensor_hash(tensor: torch.Tensor) -> str:
    """sha256 of the tensor's bytes; dtype and shape are kept beside it in the manifest."""
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity: its extremes tell, much sooner than a look at each element."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    try:
        return _has_finite_extremes(tensor)
    except RuntimeError:  # fp8 has no extremes of its own, and neither has half precision in older torch
        return all(_has_finite_extremes(part.float()) for part in tensor.reshape(-1).split(_IN_CACHE))


def _has_finite_extremes(tensor: torch.Tensor) -> bool:
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def cast(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The tensor in ``dtype``. UserError when its values don't fit, rather than infinities in a file."""
    if tensor.dtype == dtype:
        return tensor
    narrowed = tensor.to(dtype)
    if not is_finite(narrowed):
        raise UserError(
            f"{name} holds values too large for {str(dtype).removeprefix('torch.')}: do without half precision."
        )
    return narrowed


def _header(specs: Mapping[str, Spec], starts: Mapping[str, int], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, spec in specs.items():
        offsets = [starts[name], starts[name] + spec.n_bytes]
        entries[name] = {"dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data must start on a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text
