"""Safetensors files: tensors read one at a time without a memory map, and written one at a time.

Each tensor is read into memory of its own, so only one is held at a time, and a file that is open here can still be
replaced on Windows. The writer writes the header first and then each tensor as it arrives.
``checkpoints/reading.py`` opens model files of any format with the same :class:`TensorFile`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch

from dreambooth.errors import UserError
from dreambooth.files import as_user_error
from dreambooth.safetensors_header import HeaderEntry, header_bytes, read_header

# Dtypes by their safetensors names, without those that the installed torch lacks.
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, torch_name)
    for name, torch_name in {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16",
        "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    }.items()
    if hasattr(torch, torch_name)
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in a file. ``start`` is the byte offset of its first element; ``stride`` is None when contiguous."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stride: tuple[int, ...] | None = None

    @property
    def span(self) -> int:
        """Number of bytes from the first element to the end of the last one."""
        if math.prod(self.shape) == 0:
            return 0
        if self.stride is None:
            return math.prod(self.shape) * self.dtype.itemsize
        return (1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))) * self.dtype.itemsize


class Tensors(ABC):
    """A mapping of tensor names to shapes, dtypes and, on demand, values, in the order of the source.

    A context manager. Subclasses set ``path`` and ``metadata``.
    """

    path: Path
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()  # what a reader changed, for users
    added_prefix: str = ""  # before all names of the file, which has own_prefix instead
    own_prefix: str = ""

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def path_of(self, key: str) -> Path:
        """The file that has this tensor, or should have it."""
        return self.path

    @abstractmethod
    def __contains__(self, key: str) -> bool: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def keys(self) -> list[str]: ...

    @abstractmethod
    def shape(self, key: str) -> tuple[int, ...]: ...

    @abstractmethod
    def dtype(self, key: str) -> torch.dtype: ...

    @abstractmethod
    def get(self, key: str) -> torch.Tensor:
        """A contiguous copy of the tensor on the CPU. UserError when it can't be read."""


class TensorFile(Tensors):
    """One open tensor file."""

    def __init__(self, path: Path, file: FileIO, entries: dict[str, TensorEntry], metadata: dict[str, str]):
        self.path, self.metadata = path, metadata
        self._file, self._entries = file, entries

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        return list(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def shape(self, key: str) -> tuple[int, ...]:
        return self._entries[key].shape

    def dtype(self, key: str) -> torch.dtype:
        return self._entries[key].dtype

    def get(self, key: str) -> torch.Tensor:
        entry = self._entries[key]
        buffer = torch.empty(entry.span, dtype=torch.uint8)
        self._read_into(buffer.numpy().data, entry.start)
        flat = buffer.view(entry.dtype)
        if entry.stride is None:
            return flat.view(entry.shape)
        return torch.as_strided(flat, entry.shape, entry.stride).contiguous()

    def _read_into(self, target: memoryview, start: int) -> None:
        try:
            self._file.seek(start)
            while target:
                n_read = self._file.readinto(target[: 1 << 30])
                if not n_read:
                    raise UserError(f"{self.path} ended unexpectedly: it was changed while it was read. Try again.")
                target = target[n_read:]
        except OSError as error:
            raise as_user_error(error, self.path, "read") from error


def open_safetensors(path: Path, file: FileIO) -> TensorFile:
    """The tensors of ``file``, which is open for reading. UserError when its header is invalid."""
    header = read_header(path, file)
    for key, entry in header.tensors.items():
        if entry.dtype not in DTYPES:
            raise UserError(f"{path}: tensor {key} has the dtype {entry.dtype}, which this torch lacks. Update torch.")
    entries = {key: TensorEntry(entry.shape, DTYPES[entry.dtype], entry.start) for key, entry in header.tensors.items()}
    return TensorFile(path, file, entries, header.metadata)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file. OSError when it can't be opened, UserError when it is damaged."""
    with open(path, "rb", buffering=0) as file:
        tensors = open_safetensors(path, file)
        return {key: tensors.get(key) for key in tensors}


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a tensor that will be written."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TensorWriter:
    """Writes a safetensors file whose header lists ``specs`` in the order given; tensors may be written in any order.

    The data is laid out in :func:`data_order`, not in the order of the header.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None):
        self.specs, self._missing = dict(specs), set(specs)
        self._starts: dict[str, int] = {}
        end = 0
        for name in data_order(self.specs):
            self._starts[name] = end
            end += self.specs[name].n_bytes
        header = header_bytes({name: self._header_entry(name) for name in self.specs}, metadata)
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
        """Write one tensor. ValueError when its shape or dtype differs from its spec."""
        spec = self.specs[name]
        if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, declared as {spec}")
        self._file.seek(self._data_start + self._starts[name])
        self._file.write(tensor_bytes(tensor))
        self._missing.discard(name)

    def _header_entry(self, name: str) -> HeaderEntry:
        spec, start = self.specs[name], self._starts[name]
        return HeaderEntry(_NAMES[spec.dtype], spec.shape, start, start + spec.n_bytes)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a whole file at ``path`` itself: callers wrap it in ``files.atomic_write``."""
    specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with TensorWriter(path, specs, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


def data_order(specs: Mapping[str, TensorSpec]) -> list[str]:
    """Names in the order of their data: widest dtype first, so that each tensor is aligned in a memory map."""
    return sorted(specs, key=lambda name: -specs[name].dtype.itemsize)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of the tensor, without a copy when it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
