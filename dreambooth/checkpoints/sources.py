"""Sources of Create: a single file or a diffusers folder, optionally with another VAE."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dreambooth.checkpoints.folder_source import FolderSource
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.models.registry import with_original_names
from dreambooth.models.sd.keys import VAE
from dreambooth.models.sd.spellings import (
    diffusers_vae_names,
    is_vae_attention,
    original_vae_name,
)
from dreambooth.tensor_files import Tensors
from dreambooth.text import count


def open_source(path: Path, vae: Path | None = None) -> Tensors:
    """Open a single file or a diffusers folder; ``vae`` (file or folder) replaces its VAE.

    UserError when it is neither, or a folder of an unsupported family.
    """
    path = Path(path)
    source = FolderSource(path) if os.path.isdir(path) else with_original_names(open_tensors(path))
    if vae is None:
        return source
    try:
        return _WithVae(source, Path(vae))
    except BaseException:
        source.close()
        raise


class _WithVae(Tensors):
    """A source with another VAE."""

    def __init__(self, source: Tensors, vae: Path):
        self.path, self.metadata, self.notes, self._source = source.path, source.metadata, source.notes, source
        self._file = open_tensors(_vae_file(vae))
        self._names = _original_names(self._file)
        expected = {key for key in source if key.startswith(VAE)}
        halves = {_half(key) for key in expected}  # a checkpoint may lack the encoder
        differing = sorted(expected ^ {key for key in self._names if _half(key) in halves})
        if expected and differing:
            self._file.close()
            n_tensors = count(len(differing), "tensor")
            raise UserError(
                f"{vae} does not fit {source.path}: {n_tensors} not in both, first {differing[0]}. Choose another VAE."
            )

    def close(self) -> None:
        self._file.close()
        self._source.close()

    def keys(self) -> list[str]:
        return [*self._source.keys(), *(key for key in self._names if key not in self._source)]

    def __contains__(self, key: str) -> bool:
        return key in self._names or key in self._source

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self._names:
            return self._source.shape(key)
        shape = self._file.shape(self._names[key])
        return (*shape[:2], 1, 1) if is_vae_attention(key) and len(shape) in (2, 3) else shape

    def dtype(self, key: str) -> torch.dtype:
        return self._file.dtype(self._names[key]) if key in self._names else self._source.dtype(key)

    def get(self, key: str) -> torch.Tensor:
        if key not in self._names:
            return self._source.get(key)
        return self._file.get(self._names[key]).reshape(self.shape(key))


def _half(key: str) -> str:
    """The part of a VAE that a tensor belongs to: encoder, decoder, quant_conv, post_quant_conv."""
    return key.removeprefix(VAE).partition(".")[0]


def _vae_file(path: Path) -> Path:
    """The file itself, or the weights in the diffusers folder of a VAE or of a whole model."""
    if not os.path.isdir(path):
        return path
    for folder in (path / "vae", path):
        for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
                     "diffusion_pytorch_model.bin"):  # fmt: skip
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"{path} has no VAE (diffusion_pytorch_model.safetensors): choose the file of a VAE.")


def _original_names(file: Tensors) -> dict[str, str]:
    """A map from the original names of a VAE's tensors to those of the file. UserError when it has no VAE."""
    prefix = next((prefix for prefix in (VAE, "vae.") if any(key.startswith(prefix) for key in file)), "")
    if prefix + "encoder.conv_in.weight" not in file:
        raise UserError(f"{file.path} is not a VAE: choose the file of a VAE, or a checkpoint that includes one.")
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    names = [key.removeprefix(prefix) for key in file if key.startswith(prefix)]
    names = [name for name in names if prefix or name.startswith(parts)]
    if any(".down_blocks." in name for name in names):
        return {VAE + original: prefix + name for name, original in diffusers_vae_names(names).items()}
    return {VAE + original_vae_name(name): prefix + name for name in names}
