"""The header of safetensors files: what it says of each tensor, checked completely. It needs no torch."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dreambooth.errors import UserError

# Bytes of one element, by safetensors' names for dtypes. Others are refused by name.
ITEM_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_SIZE = 1 << 48  # no dimension, offset or stride is as large; torch's own arithmetic would overflow
_MAX_HEADER = 100_000_000  # bytes; the same bound as the safetensors library's


@dataclass(frozen=True)
class HeaderEntry:
    """What the header says of one tensor; ``start`` and ``end`` count bytes from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """All tensors in the header's order, and the file's metadata (str to str)."""

    tensors: dict[str, HeaderEntry]
    metadata: dict[str, str]


def read_header(path: Path, file: BinaryIO) -> Header:
    """The header of an open file. UserError when anything in it is wrong, so that no later read can go astray."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    start = file.read(8)
    if len(start) < 8:
        raise UserError(f"{path} is truncated or damaged: it ends within its header. Download or copy it again.")
    (length,) = struct.unpack("<Q", start)
    if length > min(_MAX_HEADER, size - 8):
        what = "is truncated or damaged: it ends within its header" if length <= _MAX_HEADER else "has a broken header"
        raise UserError(f"{path} {what}. Download or copy it again.")
    try:
        values = json.loads(file.read(length))
        metadata = {str(k): str(v) for k, v in (values.pop("__metadata__", None) or {}).items()}
        header = Header({key: _entry(path, key, value, 8 + length) for key, value in values.items()}, metadata)
        require_text(header.tensors, metadata)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} has a broken safetensors header: download or copy it again.") from error
    end = _check_gapless(path, header, 8 + length)
    if end > size:
        raise UserError(
            f"{path} is truncated: {size:,} of {end:,} bytes are there. The download did not finish; get it again."
        )
    if end < size:
        raise UserError(f"{path} is damaged: {size - end:,} bytes follow its last tensor. Download or copy it again.")
    return header


def header_bytes(tensors: Mapping[str, HeaderEntry], metadata: Mapping[str, str] | None) -> bytes:
    """The beginning of a file up to its data; here ``start`` and ``end`` count from the data's first byte."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, entry in tensors.items():
        entries[name] = {
            "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [entry.start, entry.end]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data must start on a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text


def require_text(names: Iterable[str], metadata: Mapping[str, str]) -> None:
    """ValueError for names that can't be written again: lone surrogates, and the header's own key."""
    for text in (*names, *metadata, *metadata.values()):
        text.encode()
    if "__metadata__" in names:
        raise ValueError("a tensor is named __metadata__")


def _entry(path: Path, key: str, value: dict[str, Any], data_start: int) -> HeaderEntry:
    if value["dtype"] not in ITEM_SIZES:
        raise UserError(f"{path}: tensor {key} has the type {value['dtype']}, which can't be read here.")
    shape, (start, end) = tuple(value["shape"]), value["data_offsets"]
    if any(type(n) is not int or not 0 <= n < MAX_SIZE for n in (*shape, start, end)):
        raise ValueError(f"{key} has a size that makes no sense")
    needed = math.prod(shape) * ITEM_SIZES[value["dtype"]]
    if needed != end - start:
        raise ValueError(f"{key} has {end - start} bytes, but its shape needs {needed}")
    return HeaderEntry(value["dtype"], shape, data_start + start, data_start + end)


def _check_gapless(path: Path, header: Header, data_start: int) -> int:
    """The byte after the last tensor; tensors must follow each other without gap or overlap, as the format says."""
    end = data_start
    for entry in sorted(header.tensors.values(), key=lambda e: (e.start, e.end)):
        if entry.start != end:
            raise UserError(f"{path} has a broken safetensors header: its tensors overlap or leave gaps.")
        end = entry.end
    return end
