"""The two formats of torch files (zip and legacy): the position of the pickle and of the data of each storage.

Damaged files may raise any exception here; the caller reports each as a damaged file.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dreambooth.checkpoints.pickles import PickledTensor, PickleReader, Storage
from dreambooth.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # at the start of files written before torch 1.6


@dataclass(frozen=True)
class TorchFile:
    """The unpickled value of a torch file, and the byte offset of each storage by its key."""

    value: Any
    starts: dict[str, int]


def read_zip(file: BinaryIO, path: Path) -> TorchFile:
    """The format since torch 1.6: a zip with ``NAME/data.pkl`` and an uncompressed ``NAME/data/KEY`` per storage."""
    archive = zipfile.ZipFile(file)
    records = {info.filename: info for info in archive.infolist()}
    pickled = next((name for name in records if name.endswith("data.pkl") and name.count("/") <= 1), None)
    if pickled is None:
        raise UserError(f"{path} is a zip archive, not a model: unpack it and choose the model file inside.")
    if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
        raise UserError(f"{path} was recompressed after torch wrote it: use the original file, or a .safetensors.")
    with archive.open(pickled) as stream:
        value = PickleReader(stream, path).read()
    folder = pickled.removesuffix("data.pkl") + "data/"
    data = [info for name, info in records.items() if name.startswith(folder)]
    return TorchFile(value, {info.filename.removeprefix(folder): _record_start(file, info) for info in data})


def _record_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """The offset of a record's data, which follows the name and padding of its local header."""
    file.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name_length + extra_length


def read_legacy(file: BinaryIO, path: Path) -> TorchFile:
    """The format before torch 1.6: five pickles (magic number, version, machine, value, keys), then the storages."""
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
            raise ValueError("its list of storages is invalid")
        file.seek(numel * item_sizes[key], 1)
    return TorchFile(value, starts)


def _storages(value: Any) -> list[Storage]:
    """All storages nested in ``value``, which may contain itself."""
    storages, pending, visited = [], [value], set()
    while pending:
        item = pending.pop()
        if isinstance(item, PickledTensor):
            storages.append(item.storage)
        elif isinstance(item, (dict, list, tuple)) and id(item) not in visited:
            visited.add(id(item))
            pending.extend(item.values() if isinstance(item, dict) else item)
    return storages
