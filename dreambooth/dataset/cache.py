"""Tensors on disk that are costly to compute and never change: latents and text embeddings.

A key is a hash of everything that the value depends on, so nothing ever has to be invalidated: an edited
picture, another crop, another VAE simply have other keys.
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
    """The VAE's answer for each picture: moments (2C, H/8, W/8), mean and deviation stacked.

    Moments rather than samples, so that every epoch can draw its own latent from them.
    """

    def __init__(self, folder: Path, vae_fingerprint: str) -> None:
        self._folder = folder
        self._vae = vae_fingerprint

    def get(self, example: Example) -> torch.Tensor | None:
        """The moments as they were put, on the CPU, or None."""
        found = _read(self._path(example))
        return found["value"] if found else None

    def put(self, example: Example, moments: torch.Tensor) -> None:
        """Keep the moments. Raises UserError when the folder can't be written."""
        _write(self._path(example), {"value": moments})

    def _path(self, example: Example) -> Path:
        crop = example.crop
        box = [crop.resized_w, crop.resized_h, crop.left, crop.top, crop.width, crop.height]
        flipped = ["flipped"] if example.flipped else []
        return self._folder / _file_name("latent", self._vae, example.content, box, *flipped)


class TextCache:
    """The text encoders' answer for each prompt: tensors by name."""

    def __init__(self, folder: Path, text_encoder_fingerprint: str, prompt_encoding: Hashable) -> None:
        """``prompt_encoding``: all that decides how a prompt is read, as something whose repr tells it."""
        self._folder = folder
        self._text_encoder = text_encoder_fingerprint
        self._prompt_encoding = repr(prompt_encoding)

    def get(self, prompt: str) -> dict[str, torch.Tensor] | None:
        """The tensors as they were put, on the CPU, or None."""
        return _read(self._path(prompt))

    def put(self, prompt: str, embedding: Mapping[str, torch.Tensor]) -> None:
        """Keep the tensors. Raises UserError when the folder can't be written."""
        _write(self._path(prompt), embedding)

    def _path(self, prompt: str) -> Path:
        return self._folder / _file_name("embedding", self._text_encoder, self._prompt_encoding, prompt)


def keep(cache: Any, key: Any, value: Any) -> None:
    """Put a value into a cache; what can't be written costs time on the next run, no more."""
    try:
        cache.put(key, value)
    except UserError as error:
        log.warning("Not kept for the next run: %s", error)


def _file_name(*key: object) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest() + ".safetensors"


def _read(path: Path) -> dict[str, torch.Tensor] | None:
    try:
        return read_tensors(path)
    except FileNotFoundError:
        return None
    except (UserError, OSError) as error:
        # A cache may lose what it holds: the value is computed and written again.
        log.warning("A damaged cache file is computed again: %s", error)
        return None


def _write(path: Path, values: Mapping[str, torch.Tensor]) -> None:
    with files.atomic_write(path, durable=False) as temporary:
        write_tensors(temporary, values)
