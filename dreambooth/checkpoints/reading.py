"""Model files, opened without loading them and without running anything they hold.

:func:`open_tensors` looks at the content, not at the name's ending, and gives a :class:`TensorFile`: names, shapes
and dtypes at once, each tensor's bytes when asked for. Bytes are read into fresh memory (no memory map): one tensor
at a time is all that is held, and a file that is open here can still be replaced on Windows.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dreambooth.checkpoints.pickles import MAX_SIZE, PickledTensor
from dreambooth.checkpoints.torch_files import TorchFile, read_legacy, read_zip
from dreambooth.errors import UserError
from dreambooth.files import explain

# safetensors' names for dtypes. Those that this torch lacks are left out and refused by name when met.
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, torch_name)
    for name, torch_name in {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16",
        "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    }.items()
    if hasattr(torch, torch_name)
}  # fmt: skip
_MAX_HEADER = 100_000_000  # bytes; the same bound as the safetensors library's

_OTHER_FILES = {
    b"version https://git-lfs": "is a Git LFS pointer, not the model itself: download the real file",
    b"GGUF": "is a GGUF (quantised) file, which can't be trained: use the .safetensors checkpoint it was made from",
    b"\x89PNG": "is a picture, not a model",
    b"\xff\xd8\xff": "is a picture, not a model",
    b"7z\xbc\xaf": "is a 7z archive, not a model: unpack it first",
    b"Rar!": "is a RAR archive, not a model: unpack it first",
    b"\x1f\x8b": "is a gzip archive, not a model: unpack it first",
}


@dataclass(frozen=True)
class Entry:
    """One tensor in the file. ``start`` is the byte of its first element; ``stride`` is None when contiguous."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stride: tuple[int, ...] | None = None

    @property
    def span(self) -> int:
        """Bytes from the first element to the last."""
        if math.prod(self.shape) == 0:
            return 0
        if self.stride is None:
            return math.prod(self.shape) * self.dtype.itemsize
        return (1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))) * self.dtype.itemsize


class Tensors(ABC):
    """Names, shapes and dtypes of a source's tensors, in its own order, and their values on demand.

    A context manager; ``path`` and ``metadata`` (str to str) are there to be read.
    """

    path: Path
    metadata: dict[str, str]

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

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
        """The tensor, contiguous, on the CPU, in memory of its own. UserError when the disk fails."""


class TensorFile(Tensors):
    """One open file."""

    def __init__(self, path: Path, file: BinaryIO, entries: dict[str, Entry], metadata: dict[str, str]):
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
                n_read = self._file.readinto(target[: 1 << 30])  # type: ignore[attr-defined]
                if not n_read:
                    raise UserError(f"{self.path} ended while it was read: has it been changed meanwhile?")
                target = target[n_read:]
        except OSError as error:
            raise explain(error, self.path, "read") from error


def open_tensors(path: Path) -> TensorFile:
    """Open a .safetensors file or a torch pickle (.ckpt, .pt, .bin), whatever it is called.

    UserError says what is wrong: missing, empty, truncated, a web page, an archive, a pickle that wants to run
    something (which is named, and not run).
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path's, it takes any name
        raise UserError(f"{path} is a folder, not a model file.")
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 (TensorFile keeps it and closes it)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise explain(error, path, "read") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} can't be the name of a file: correct the path.") from error
    try:
        return _open(path, file)
    except BaseException:
        file.close()
        raise


def _open(path: Path, file: BinaryIO) -> TensorFile:
    size = path.stat().st_size
    head = file.read(64)
    if not head:
        raise UserError(f"{path} is empty (0 bytes): download or copy it again.")
    if head[8:9] == b"{":
        return TensorFile(path, file, *_safetensors_entries(path, file, size))
    for magic, what in _OTHER_FILES.items():
        if head.startswith(magic):
            raise UserError(f"{path} {what}.")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"<"):
        raise UserError(f"{path} is a web page, not a model: the link led to a page. Download the file itself.")
    if text.startswith(b"{"):
        raise UserError(f"{path} is a text (JSON), not a model: perhaps a server's complaint, saved in its place.")
    return TensorFile(path, file, *_pickled_entries(path, file, size, is_zip=head.startswith(b"PK")))


def _safetensors_entries(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Check the header completely, so that no later read can go astray."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(_MAX_HEADER, size - 8):
        what = "is truncated or damaged: it ends within its header" if length <= _MAX_HEADER else "has a broken header"
        raise UserError(f"{path} {what}. Download or copy it again.")
    header_bytes = file.read(length)
    try:
        header = json.loads(header_bytes)
        metadata = {str(k): str(v) for k, v in (header.pop("__metadata__", None) or {}).items()}
        entries = {key: _safetensors_entry(path, key, value, 8 + length) for key, value in header.items()}
        _require_text(entries, metadata)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} has a broken safetensors header: download or copy it again.") from error
    end = _check_gapless(path, entries, 8 + length)
    if end > size:
        raise UserError(
            f"{path} is truncated: {size:,} of {end:,} bytes are there. The download did not finish; get it again."
        )
    if end < size:
        raise UserError(f"{path} is damaged: {size - end:,} bytes follow its last tensor. Download or copy it again.")
    return entries, metadata


def _safetensors_entry(path: Path, key: str, value: dict[str, Any], data_start: int) -> Entry:
    if value["dtype"] not in DTYPES:
        raise UserError(f"{path}: tensor {key} has the type {value['dtype']}, which can't be read here.")
    shape, (start, end) = tuple(value["shape"]), value["data_offsets"]
    if any(type(n) is not int or not 0 <= n < MAX_SIZE for n in (*shape, start, end)):
        raise ValueError(f"{key} has a size that makes no sense")
    entry = Entry(shape, DTYPES[value["dtype"]], data_start + start)
    if entry.span != end - start:
        raise ValueError(f"{key} has {end - start} bytes, but its shape needs {entry.span}")
    return entry


def _check_gapless(path: Path, entries: dict[str, Entry], data_start: int) -> int:
    """The byte after the last tensor; tensors must follow each other without gap or overlap, as the format says."""
    end = data_start
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.span)):
        if entry.start != end:
            raise UserError(f"{path} has a broken safetensors header: its tensors overlap or leave gaps.")
        end += entry.span
    return end


def _pickled_entries(path: Path, file: BinaryIO, size: int, is_zip: bool) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors, and as metadata whatever strings lie beside them."""
    try:
        content = (read_zip if is_zip else read_legacy)(file, path)
        entries = {key: _pickled_entry(key, t, content, size) for key, t in _named_tensors(content.value)}
        beside = content.value.items() if isinstance(content.value, dict) else ()
        metadata = {key: text for key, text in beside if isinstance(key, str) and isinstance(text, str)}
        _require_text(entries, metadata)
        return entries, metadata
    except UserError:
        raise
    except Exception as error:  # such a file can be broken in more ways than there are kinds of exceptions
        kind = "a truncated or damaged checkpoint" if is_zip else "no model file that is known here, or a damaged one"
        why = " ".join(str(error).split())
        raise UserError(f"{path} is {kind} ({why}): download or copy it again.") from error


def _pickled_entry(key: str, tensor: PickledTensor, content: TorchFile, size: int) -> Entry:
    start = content.starts.get(tensor.storage.key)
    if start is None:
        raise ValueError(f"the data of {key} is missing")
    contiguous = tensor.stride == _contiguous_stride(tensor.shape)
    stride = None if contiguous else tensor.stride
    entry = Entry(tensor.shape, tensor.dtype, start + tensor.offset * tensor.dtype.itemsize, stride)
    storage_bytes = tensor.storage.numel * tensor.storage.dtype.itemsize
    if entry.start + entry.span > min(size, start + storage_bytes):
        raise ValueError(f"the data of {key} is cut off")
    if math.prod(entry.shape) * entry.dtype.itemsize > storage_bytes:
        raise ValueError(f"{key} repeats its data")  # a few bytes could stand for more than fits into memory
    return entry


def _require_text(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """ValueError for names that no file of ours could hold: lone halves of characters, and the header's own key."""
    for text in (*entries, *metadata, *metadata.values()):
        text.encode()
    if "__metadata__" in entries:
        raise ValueError("a tensor is named __metadata__")


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _named_tensors(value: Any) -> Iterator[tuple[str, PickledTensor]]:
    """Tensors with their names: those of the ``state_dict`` where there is one, else all, nested names dotted."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    todo: list[tuple[str, Any, int]] = [("", value, 0)]
    while todo:
        prefix, item, depth = todo.pop(0)
        for key, inner in item.items() if isinstance(item, dict) else ():
            name = f"{prefix}.{key}" if prefix else str(key)
            if isinstance(inner, PickledTensor):
                yield name, inner
            elif isinstance(inner, dict) and depth < 4:
                todo.append((name, inner, depth + 1))
