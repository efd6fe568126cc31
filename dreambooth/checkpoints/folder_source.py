"""A diffusers folder, seen as the single file that it could be: original names, original shapes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.family import Family, family_of_folder
from dreambooth.checkpoints.layout import join
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.modules import WEIGHTS, disk_name
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.tensor_files import Tensors

# diffusers before 0.13 named the VAE's attention so; many folders still hold such files.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


# Parts whose config.json tells the family; others (safety checker, feature extractor) don't matter.
_DESCRIBED = ("unet", "vae", "text_encoder", "text_encoder_2")

# The number that huggingface's libraries give each file of a large component.
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


class FolderSource(Tensors):
    """The components' files under the names of the family's single file."""

    def __init__(self, path: Path):
        self.path = path
        configs = _configs(path)
        try:
            family = _family(path, configs)
            self.metadata = family.config_metadata(configs)
            self._layout = family.layout(configs)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path}: its config.json files are damaged ({error!r}): copy it again.") from error
        self._sources: dict[str, list[tuple[Tensors, str]]] = {}
        self._fillers: dict[str, torch.Tensor] = {}
        with contextlib.ExitStack() as stack:
            found: dict[TensorRef, tuple[Tensors, str]] = {}
            for component in family.components:
                for weights in _weights(path / component, component):
                    file = stack.enter_context(open_tensors(weights))
                    found |= {TensorRef(component, today(component, name)): (file, name) for name in file}
                found |= self._averaged(path, component, stack)
            self._arrange(found)
            self._files = stack.pop_all()
        with contextlib.suppress(LookupError, ValueError):  # it is not whole; whoever extracts it says so
            self._fillers = family.filler_tensors({key: self.shape(key) for key in self}, configs.get("scheduler", {}))

    def close(self) -> None:
        self._files.close()

    def keys(self) -> list[str]:
        return [*self._sources, *(key for key in self._fillers if key not in self._sources)]

    def __contains__(self, key: str) -> bool:
        return key in self._sources or key in self._fillers

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self._sources:
            return tuple(self._fillers[key].shape)
        return self._layout.key_shape(key, [file.shape(name) for file, name in self._sources[key]])

    def dtype(self, key: str) -> torch.dtype:
        if key not in self._sources:
            return self._fillers[key].dtype
        file, name = self._sources[key][0]
        return file.dtype(name)

    def get(self, key: str) -> torch.Tensor:
        if key not in self._sources:
            return self._fillers[key]
        slot = self._layout.slot(key)
        parts = [file.get(name) for file, name in self._sources[key]]
        return join(parts, self.shape(key), slot is not None and slot.transposed)

    def _arrange(self, found: Mapping[TensorRef, tuple[Tensors, str]]) -> None:
        """By the original's names. A tensor that the original lacks, or that is only in part there, is left out."""
        for place in found:
            key = self._layout.key(place)
            slot = self._layout.slot(key) if key else None
            places = (place,) if place.component == "ema_unet" else slot.places if slot else ()
            if key and places and all(part in found for part in places):
                self._sources[key] = [found[part] for part in places]

    @staticmethod
    def _averaged(path: Path, component: str, stack: contextlib.ExitStack) -> dict[TensorRef, tuple[Tensors, str]]:
        """Folders that have the plain weights as a variant named non_ema have the averaged ones as the main file."""
        files = _versions(_names_in(path / component), component)
        averaged = files.get(WEIGHTS[component], [])
        if component != "unet" or not any(".non_ema." in name for name in files):
            return {}
        found = {}
        for name in averaged:
            file = stack.enter_context(open_tensors(path / component / name))
            found |= {TensorRef("ema_unet", today(component, name)): (file, name) for name in file}
        return found


def today(component: str, name: str) -> str:
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
    family = family_of_folder(configs)
    if family:
        return family
    lacking = [name for name in ("unet", "vae", "text_encoder") if name not in configs]
    if lacking:
        raise UserError(f"{path} has no {' and no '.join(lacking)}: choose a complete Stable Diffusion folder.")
    unet = configs["unet"]
    kind = "an instruct-pix2pix model" if unet.get("in_channels") == 8 else "of a family that is not known here"
    raise UserError(f"{path} is {kind}: choose a folder of Stable Diffusion 1.x, 2.x or XL.")


def preferred_weights(names: Iterable[str], component: str) -> list[str]:
    """Of the files in a component's folder those that hold its plain weights; [] when none does.

    Plain ones before variants (fp16), .safetensors before pickles; one file or its shards. Where a non_ema variant
    lies beside the main file, that is the plain one.
    """
    versions = _versions(names, component)
    if not versions:
        return []

    def order(name: str) -> tuple:
        return (".non_ema." not in name, name.count("."), name.endswith(".bin"), name)

    files = versions[min(versions, key=order)]
    whole = [name for name in files if not _SHARD.search(name)]
    return whole or files


def _weights(folder: Path, component: str) -> list[Path]:
    names = preferred_weights(_names_in(folder), component)
    if not names:
        raise UserError(f"{folder} holds no weights ({WEIGHTS[component]}): copy the whole folder again.")
    return [folder / name for name in names]


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def _versions(names: Iterable[str], component: str) -> dict[str, list[str]]:
    """The files of weights by the name of the whole; shards together."""
    stems = {Path(WEIGHTS[component]).stem, "pytorch_model"}
    versions: dict[str, list[str]] = {}
    for name in sorted(names):
        whole_name = _SHARD.sub("", name)
        if name.endswith((".safetensors", ".bin")) and whole_name.split(".")[0] in stems:
            versions.setdefault(whole_name, []).append(name)
    return versions
