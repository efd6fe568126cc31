"""The two layouts of torch's own files: where the pickle lies, and where the bytes of each storage begin.

Whatever is wrong with such a file may surface here as any exception; the caller takes each for a damaged file.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dreambooth.checkpoints.pickles import PickledTensor, PickleReader, Storage
from dreambooth.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch's own number at the head of files from before 1.6


@dataclass(frozen=True)
class TorchFile:
    """What a torch file holds: its value, and for each storage key the byte where its elements start."""

    value: Any
    starts: dict[str, int]


def read_zip(file: BinaryIO, path: Path) -> TorchFile:
    """Torch's format since 1.6: a zip of ``NAME/data.pkl`` and one uncompressed record ``NAME/data/KEY`` a storage."""
    archive = zipfile.ZipFile(file)
    records = {info.filename: info for info in archive.infolist()}
    pickled = next((name for name in records if name.endswith("data.pkl") and name.count("/") <= 1), None)
    if pickled is None:
        raise UserError(f"{path} is a zip archive, not a model: unpack it and choose the model file inside.")
    if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
        raise UserError(f"{path} was packed again with compression: use the file as it was before, or a .safetensors.")
    with archive.open(pickled) as stream:
        value = PickleReader(stream, path).read()
    folder = pickled.removesuffix("data.pkl") + "data/"
    data = [info for name, info in records.items() if name.startswith(folder)]
    return TorchFile(value, {info.filename.removeprefix(folder): _record_start(file, info) for info in data})


def _record_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a record's bytes begin: its local header's name and padding lengths are only known from the file."""
    file.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name_length + extra_length


def read_legacy(file: BinaryIO, path: Path) -> TorchFile:
    """Torch's format before 1.6: five pickles (magic number, version, machine, value, keys), then the storages."""
    file.seek(0)
    magic = PickleReader(file, path).read()
    if magic != LEGACY_MAGIC:
        raise ValueError("it is a pickle, but not one that torch wrote")
    _, _, value, keys = (PickleReader(file, path).read() for _ in range(4))
    item_sizes = {s.key: s.dtype.itemsize for s in _storages(value)}
    starts = {}
    for key in keys:
        (numel,) = struct.unpack("<q", file.read(8))
        starts[key] = file.tell()
        if numel < 0 or key not in item_sizes:
            raise ValueError("its list of storages makes no sense")
        file.seek(numel * item_sizes[key], 1)
    return TorchFile(value, starts)


def _storages(value: Any) -> list[Storage]:
    """Every storage under ``value``, without following a loop twice."""
    found, todo, seen = [], [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, PickledTensor):
            found.append(item.storage)
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            todo.extend(item.values() if isinstance(item, dict) else item)
    return found
