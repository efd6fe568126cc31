"""The hashes by which WebUIs and model sites know a LoRA again, as kohya's trainer notes them in the file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from dreambooth.tensor_files import TensorSpec, data_order, tensor_bytes

HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")  # the metadata's keys


def data_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of all that follows the header."""
    digest = hashlib.sha256()
    for name in data_order({name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """The WebUI's old short hash: 8 digits over 64 KiB from 1 MiB on."""
    with open(path, "rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
