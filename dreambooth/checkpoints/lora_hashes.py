"""Hashes that identify a LoRA in WebUIs and on model sites, as kohya's trainer stores them in the metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from dreambooth.tensor_files import TensorSpec, data_order, tensor_bytes

HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")  # metadata keys


def data_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of the data after the header."""
    digest = hashlib.sha256()
    for name in data_order({name: TensorSpec(tuple(t.shape), t.dtype) for name, t in tensors.items()}):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """The WebUI's old short hash: the first 8 digits of the sha256 of 64 KiB at offset 1 MiB."""
    with open(path, "rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
