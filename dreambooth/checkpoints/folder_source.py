"""A diffusers folder, seen as the single file that it could be: original names, original shapes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.family import FAMILIES, Family
from dreambooth.checkpoints.ldm_names import Place
from dreambooth.checkpoints.modules import WEIGHTS, disk_name
from dreambooth.checkpoints.reading import Tensors, open_tensors
from dreambooth.errors import UserError
from dreambooth.files import read_json

# diffusers before 0.13 named the VAE's attention so; many folders still hold such files.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


# Parts whose config.json tells the family; others (safety checker, feature extractor) don't matter.
_DESCRIBED = ("unet", "vae", "text_encoder", "text_encoder_2")

# The number that huggingface's libraries give each file of a large component.
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def open_source(path: Path) -> Tensors:
    """A single file or a diffusers folder. UserError when it is neither, or of no family that is known."""
    return FolderSource(Path(path)) if os.path.isdir(path) else open_tensors(path)


class FolderSource(Tensors):
    """The components' files under the names of the family's single file."""

    def __init__(self, path: Path):
        self.path = path
        configs = _configs(path)
        try:
            family = _family(path, configs)
            self.metadata = family.facts_of(configs)
            self._layout = family.layout(configs)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path}: its config.json files are damaged ({error!r}): copy it again.") from error
        self._sources: dict[str, tuple[Tensors, str]] = {}
        with contextlib.ExitStack() as stack:
            for component in family.components:
                for weights in _weights(path / component, component):
                    file = stack.enter_context(open_tensors(weights))
                    self._sources |= {key: (file, name) for key, name in self._keys(component, file).items()}
            self._files = stack.pop_all()

    def close(self) -> None:
        self._files.close()

    def keys(self) -> list[str]:
        return list(self._sources)

    def __contains__(self, key: str) -> bool:
        return key in self._sources

    def shape(self, key: str) -> tuple[int, ...]:
        file, name = self._sources[key]
        return self._layout.key_shape(key, file.shape(name))

    def dtype(self, key: str) -> torch.dtype:
        file, name = self._sources[key]
        return file.dtype(name)

    def get(self, key: str) -> torch.Tensor:
        file, name = self._sources[key]
        return file.get(name).reshape(self.shape(key))

    def _keys(self, component: str, file: Tensors) -> dict[str, str]:
        """Original names to the file's own. Tensors that the original lacks are left out."""
        keys = {self._layout.key(Place(component, _today(component, name))): name for name in file}
        return {key: name for key, name in keys.items() if key}


def _today(component: str, name: str) -> str:
    """The name that today's diffusers would give the tensor."""
    if component == "vae" and ".attentions." in name:
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return disk_name(component, name)


def _configs(path: Path) -> dict[str, dict[str, Any]]:
    if not (path / "model_index.json").is_file():
        raise UserError(f"{path} is a folder without model_index.json: choose a checkpoint file or a diffusers folder.")
    files = {name: path / name / "config.json" for name in _DESCRIBED}
    files["scheduler"] = path / "scheduler" / "scheduler_config.json"
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def _family(path: Path, configs: Mapping[str, Mapping[str, Any]]) -> Family:
    for family in FAMILIES:
        if family.claims_folder(configs):
            return family
    lacking = [name for name in ("unet", "vae", "text_encoder") if name not in configs]
    if lacking:
        raise UserError(f"{path} has no {' and no '.join(lacking)}: choose a complete Stable Diffusion 1.x folder.")
    unet = configs["unet"]
    if unet.get("in_channels") != 4:
        kind = "an inpainting model"
    elif "text_encoder_2" in configs:
        kind = "an SDXL model"
    else:
        kind = "a Stable Diffusion 2 model" if unet.get("cross_attention_dim") == 1024 else "of another family"
    raise UserError(f"{path} is {kind}, which is not supported yet: choose a Stable Diffusion 1.x folder.")


def _weights(folder: Path, component: str) -> list[Path]:
    """The weights: plain ones before variants (fp16, non_ema), .safetensors before pickles; one file or its shards."""
    stems = {Path(WEIGHTS[component]).stem, "pytorch_model"}
    versions: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*")):
        whole_name = _SHARD.sub("", file.name)
        if file.suffix in (".safetensors", ".bin") and whole_name.split(".")[0] in stems:
            versions.setdefault(whole_name, []).append(file)
    if not versions:
        raise UserError(f"{folder} holds no weights ({WEIGHTS[component]}): copy the whole folder again.")
    files = versions[min(versions, key=lambda name: (name.count("."), name.endswith(".bin"), name))]
    whole = [file for file in files if not _SHARD.search(file.name)]
    return whole or files
