"""Reading, validating and writing the header of safetensors files, without torch."""

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

# Bytes per element for each dtype, as safetensors names them. Files with any other dtype are refused.
ITEM_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_SIZE = 1 << 48  # upper bound of dimensions, offsets and strides, far below an overflow of torch's arithmetic
_MAX_HEADER = 100_000_000  # bytes; the safetensors library has the same limit


@dataclass(frozen=True)
class HeaderEntry:
    """One tensor in the header; ``start`` and ``end`` are byte offsets from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """All tensors in the order of the header, and the metadata of the file."""

    tensors: dict[str, HeaderEntry]
    metadata: dict[str, str]


def read_header(path: Path, file: BinaryIO) -> Header:
    """Read and validate the header of an open file. UserError when it is invalid, so that later reads are safe."""
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
            f"{path} is truncated: it has {size:,} of {end:,} bytes. The download did not finish: download it again."
        )
    if end < size:
        raise UserError(f"{path} is damaged: {size - end:,} bytes follow its last tensor. Download or copy it again.")
    return header


def header_bytes(tensors: Mapping[str, HeaderEntry], metadata: Mapping[str, str] | None) -> bytes:
    """The bytes before the data; here ``start`` and ``end`` are offsets from the first byte of the data."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, entry in tensors.items():
        entries[name] = {
            "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [entry.start, entry.end]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data must start on a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text


def require_text(names: Iterable[str], metadata: Mapping[str, str]) -> None:
    """ValueError for text that can't be written to a header: lone surrogates, and its reserved key as a name."""
    for text in (*names, *metadata, *metadata.values()):
        text.encode()
    if "__metadata__" in names:
        raise ValueError("a tensor is named __metadata__")


def _entry(path: Path, key: str, value: dict[str, Any], data_start: int) -> HeaderEntry:
    if value["dtype"] not in ITEM_SIZES:
        raise UserError(f"{path}: tensor {key} has the unsupported dtype {value['dtype']}. Use fp32, fp16 or bf16.")
    shape, (start, end) = tuple(value["shape"]), value["data_offsets"]
    if any(type(n) is not int or not 0 <= n < MAX_SIZE for n in (*shape, start, end)):
        raise ValueError(f"{key} has an invalid size")
    needed = math.prod(shape) * ITEM_SIZES[value["dtype"]]
    if needed != end - start:
        raise ValueError(f"{key} has {end - start} bytes, but its shape needs {needed}")
    return HeaderEntry(value["dtype"], shape, data_start + start, data_start + end)


def _check_gapless(path: Path, header: Header, data_start: int) -> int:
    """The offset after the last tensor. UserError for gaps or overlaps, which the format forbids."""
    end = data_start
    for entry in sorted(header.tensors.values(), key=lambda e: (e.start, e.end)):
        if entry.start != end:
            raise UserError(f"{path} has a broken safetensors header: its tensors overlap or leave gaps.")
        end = entry.end
    return end
