"""Opening model files of any format lazily, without running any code they contain.

:func:`open_tensors` detects the format from the content, not from the file extension, and returns a ``TensorFile`` with
all names, shapes and dtypes; tensors are read on demand.
"""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from dreambooth.checkpoints.pickles import PickledTensor
from dreambooth.checkpoints.torch_files import TorchFile, read_legacy, read_zip
from dreambooth.errors import UserError
from dreambooth.files import as_user_error
from dreambooth.safetensors_header import require_text
from dreambooth.tensor_files import TensorEntry, TensorFile, open_safetensors

_OTHER_FORMATS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the model: download the actual file (git lfs pull, or the "
    "download button of the website)",
    b"GGUF": "is a GGUF (quantized) file, which can't be trained: use the .safetensors checkpoint it was made from",
    b"\x89PNG": "is an image, not a model: choose a model file",
    b"\xff\xd8\xff": "is an image, not a model: choose a model file",
    b"7z\xbc\xaf": "is a 7z archive, not a model: unpack it first",
    b"Rar!": "is a RAR archive, not a model: unpack it first",
    b"\x1f\x8b": "is a gzip archive, not a model: unpack it first",
}
# What download programs append to the name of an incomplete file.
_UNFINISHED = (".crdownload", ".part", ".partial", ".aria2", ".download", ".opdownload", ".!qB", ".!ut", ".tmp",
               ".incomplete")  # fmt: skip


def open_tensors(path: Path) -> TensorFile:
    """Open a .safetensors file or a torch pickle (.ckpt, .pt, .bin), whatever its file extension.

    UserError for a file that is missing, empty, truncated, a web page, an archive, or a pickle that contains code,
    which is not run.
    """
    path = Path(path)
    if os.path.exists(f"{path}.aria2"):  # aria2 gives the file its full size at the start
        raise UserError(f"{path} is still being downloaded ({path.name}.aria2 exists): wait until it is complete.")
    if os.path.isdir(path):  # unlike Path.is_dir, it accepts any name
        raise UserError(f"{path} is a folder: choose a model file.")
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115 (TensorFile closes it)
    except FileNotFoundError:
        raise UserError(f"{path} {_missing_reason(path)}.") from None
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not a valid file name: correct the path.") from error
    try:
        return _open(path, file)
    except BaseException:
        file.close()
        raise


def _missing_reason(path: Path) -> str:
    unfinished = next((ending for ending in _UNFINISHED if os.path.exists(f"{path}{ending}")), "")
    if unfinished:
        return f"does not exist, but {path.name}{unfinished} does: the download is not complete. Finish it first"
    return "does not exist: check the path"


def _open(path: Path, file: FileIO) -> TensorFile:
    size = path.stat().st_size
    head = file.read(64)
    if not head:
        raise UserError(f"{path} is empty (0 bytes): download or copy it again.")
    if head[8:9] == b"{":
        return open_safetensors(path, file)
    for magic, problem in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise UserError(f"{path} {problem}.")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"<"):
        raise UserError(f"{path} is a web page, not a model: download the file itself, not the page that links to it.")
    if text.startswith(b"{"):
        raise UserError(f"{path} is JSON text, not a model, perhaps an error message of the server: download it again.")
    return TensorFile(path, file, *_pickled_entries(path, file, size, is_zip=head.startswith(b"PK")))


def _pickled_entries(
    path: Path, file: BinaryIO, size: int, is_zip: bool
) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors of a pickle, and its top-level strings as metadata."""
    try:
        content = (read_zip if is_zip else read_legacy)(file, path)
        entries = {key: _pickled_entry(key, t, content, size) for key, t in _named_tensors(content.value)}
        items = content.value.items() if isinstance(content.value, dict) else ()
        metadata = {key: text for key, text in items if isinstance(key, str) and isinstance(text, str)}
        require_text(entries, metadata)
        return entries, metadata
    except UserError:
        raise
    except Exception as error:  # damaged files can raise any kind of exception
        kind = "a truncated or damaged checkpoint" if is_zip else "damaged, or of an unknown file format"
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is {kind} ({reason}): download or copy it again.") from error


def _pickled_entry(key: str, tensor: PickledTensor, content: TorchFile, size: int) -> TensorEntry:
    start = content.starts.get(tensor.storage.key)
    if start is None:
        raise ValueError(f"the data of {key} is missing")
    contiguous = tensor.stride == _contiguous_stride(tensor.shape)
    stride = None if contiguous else tensor.stride
    entry = TensorEntry(tensor.shape, tensor.dtype, start + tensor.offset * tensor.dtype.itemsize, stride)
    storage_bytes = tensor.storage.numel * tensor.storage.dtype.itemsize
    if entry.start + entry.span > min(size, start + storage_bytes):
        raise ValueError(f"the data of {key} is cut off")
    if math.prod(entry.shape) * entry.dtype.itemsize > storage_bytes:
        raise ValueError(f"{key} repeats its data")  # a few bytes could expand to more than the memory
    return entry


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _named_tensors(value: Any) -> Iterator[tuple[str, PickledTensor]]:
    """Tensors with their names: those of ``state_dict`` if there is one, else all, with dots between nested names.

    The names of a list's tensors are their positions.
    """
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    pending: list[tuple[str, Any, int]] = [("", value, 0)]
    while pending:
        prefix, item, depth = pending.pop(0)
        for key, inner in item.items() if isinstance(item, dict) else ():
            name = f"{prefix}.{key}" if prefix else str(key)
            if isinstance(inner, PickledTensor):
                yield name, inner
            elif isinstance(inner, dict) and depth < 4:
                pending.append((name, inner, depth + 1))
