"""Latents and text embeddings cached on disk.

A key is a hash of everything that the value depends on, so nothing has to be invalidated: an edited image, another
crop or another VAE have other keys.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch

from dreambooth import files
from dreambooth.dataset.plan import Example
from dreambooth.errors import UserError
from dreambooth.tensor_files import read_tensors, write_tensors

log = logging.getLogger("dreambooth.dataset")


class LatentCache:
    """The VAE's posterior for each image: moments (2C, h, w), mean and standard deviation stacked.

    Moments rather than samples, so that every epoch can sample its own latents.
    """

    def __init__(self, folder: Path, vae_fingerprint: str) -> None:
        self._folder = folder
        self._vae = vae_fingerprint

    def get(self, example: Example) -> torch.Tensor | None:
        """The cached moments, on the CPU, or None."""
        found = _read(self._path(example))
        return found["value"] if found else None

    def put(self, example: Example, moments: torch.Tensor) -> None:
        """Cache the moments. UserError if the folder is not writable."""
        _write(self._path(example), {"value": moments})

    def _path(self, example: Example) -> Path:
        crop = example.crop
        box = [crop.resized_w, crop.resized_h, crop.left, crop.top, crop.width, crop.height]
        flipped = ["flipped"] if example.flipped else []
        return self._folder / _file_name("latent", self._vae, example.content, box, *flipped)


class TextCache:
    """The text encoders' output for each prompt: tensors by name."""

    def __init__(self, folder: Path, text_encoder_fingerprint: str, prompt_encoding: Hashable) -> None:
        """``prompt_encoding``: the settings of tokenization and encoding; its repr is part of the key."""
        self._folder = folder
        self._text_encoder = text_encoder_fingerprint
        self._prompt_encoding = repr(prompt_encoding)

    def get(self, prompt: str) -> dict[str, torch.Tensor] | None:
        """The cached tensors, on the CPU, or None."""
        return _read(self._path(prompt))

    def put(self, prompt: str, embedding: Mapping[str, torch.Tensor]) -> None:
        """Cache the tensors. UserError if the folder is not writable."""
        _write(self._path(prompt), embedding)

    def _path(self, prompt: str) -> Path:
        return self._folder / _file_name("embedding", self._text_encoder, self._prompt_encoding, prompt)


def store(cache: Any, key: Any, value: Any) -> None:
    """Put a value into a cache. If it cannot be written, it is computed again in the next run."""
    try:
        cache.put(key, value)
    except UserError as error:
        log.warning("Not cached for the next run: %s", error)


def _file_name(*key: object) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest() + ".safetensors"


def _read(path: Path) -> dict[str, torch.Tensor] | None:
    try:
        return read_tensors(path)
    except FileNotFoundError:
        return None
    except (UserError, OSError) as error:
        # A damaged entry is no error: the value is computed and written again.
        log.warning("Damaged cache file, recomputed: %s", error)
        return None


def _write(path: Path, values: Mapping[str, torch.Tensor]) -> None:
    with files.atomic_write(path, durable=False) as temporary:
        write_tensors(temporary, values)
