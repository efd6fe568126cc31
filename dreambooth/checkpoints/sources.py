"""What Create reads from: a single file or a diffusers folder, either with another VAE put in its place."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dreambooth.checkpoints.folder_source import FolderSource, today
from dreambooth.checkpoints.ldm_names import PrefixNameMap, vae_names
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.stable_diffusion import VAE
from dreambooth.errors import UserError
from dreambooth.tensor_files import Tensors


def open_source(path: Path, vae: Path | None = None) -> Tensors:
    """A single file or a diffusers folder, with the VAE of ``vae`` (file or folder) instead of its own.

    UserError when it is neither, or of no family that is known.
    """
    path = Path(path)
    source = FolderSource(path) if os.path.isdir(path) else open_tensors(path)
    if vae is None:
        return source
    try:
        return _WithVae(source, Path(vae))
    except BaseException:
        source.close()
        raise


class _WithVae(Tensors):
    """A source, but for its VAE."""

    def __init__(self, source: Tensors, vae: Path):
        self.path, self.metadata, self._source = source.path, source.metadata, source
        self._file = open_tensors(_vae_file(vae))
        self._names = _original_names(self._file)
        theirs = {key: source.shape(key) for key in source if key.startswith(VAE)}
        if theirs and (wrong := sorted(theirs.keys() ^ self._names.keys())):
            self._file.close()
            raise UserError(f"{vae} is no VAE for {source.path}: {len(wrong)} tensors differ, the first is {wrong[0]}.")

    def close(self) -> None:
        self._file.close()
        self._source.close()

    def keys(self) -> list[str]:
        kept = self._source.keys()
        return [*kept, *(key for key in self._names if key not in self._source)]

    def __contains__(self, key: str) -> bool:
        return key in self._names or key in self._source

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self._names:
            return self._source.shape(key)
        shape = self._file.shape(self._names[key])
        return (*shape, 1, 1) if ".attn_1." in key and len(shape) == 2 else shape

    def dtype(self, key: str) -> torch.dtype:
        return self._file.dtype(self._names[key]) if key in self._names else self._source.dtype(key)

    def get(self, key: str) -> torch.Tensor:
        if key not in self._names:
            return self._source.get(key)
        return self._file.get(self._names[key]).reshape(self.shape(key))


def _vae_file(path: Path) -> Path:
    """The file itself, or the one in a VAE's or a whole model's diffusers folder."""
    if not os.path.isdir(path):
        return path
    for folder in (path / "vae", path):
        for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
                     "diffusion_pytorch_model.bin"):  # fmt: skip
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"{path} holds no VAE (diffusion_pytorch_model.safetensors): choose its file.")


def _original_names(file: Tensors) -> dict[str, str]:
    """The original's names of a VAE's tensors, to the file's own. UserError when it holds none."""
    inside = {key: key for key in file if key.startswith(VAE)}
    if inside:
        return inside
    if "encoder.conv_in.weight" not in file:
        raise UserError(f"{file.path} is no VAE: choose a VAE's file, or a checkpoint that has one inside.")
    keys = [key for key in file if key.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))]
    if not any(".down_blocks." in key for key in keys):
        return {VAE + key: key for key in keys}
    names = _names_for(keys)
    return {VAE + (names.to_original(today("vae", key)) or key): key for key in keys}


def _names_for(keys: list[str]) -> PrefixNameMap:
    """The table for a VAE in diffusers' names, sized by them."""
    levels = {key.split(".")[2] for key in keys if key.startswith("encoder.down_blocks.")}
    layers = {key.split(".")[4] for key in keys if key.startswith("encoder.down_blocks.0.resnets.")}
    return vae_names({"block_out_channels": [0] * len(levels), "layers_per_block": len(layers)})
