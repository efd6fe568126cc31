"""A diffusers folder presented as a single file: original tensor names and shapes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.references import checked_reference, module_shapes, open_reference
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.models.family import Family
from dreambooth.models.layout import TensorRef
from dreambooth.models.registry import FAMILIES, component_names, describe_folder, family_of_folder
from dreambooth.models.transforms import Transform
from dreambooth.tensor_files import Tensors

_INDEX = "model_index.json"
_STEM = "diffusion_pytorch_model"  # of the weight files of diffusers' modules

# The suffix of each file of a sharded component.
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


class FolderSource(Tensors):
    """The components' tensors under the names of the family's single file.

    ``working``: the folder is the working folder of a model, which may lack model_index.json, and whose EMA weights
    are in a folder of their own. ``paths``: the weight files by component, without those that a model reads in place.
    """

    def __init__(self, path: Path, working: bool = False):
        self.path, self.paths = path, dict[str, tuple[Path, ...]]()
        configs = _configs(path, index_required=not working)
        try:
            family = _family(path, configs, _index(path))
            self.metadata = family.config_metadata(configs)
            self._layout = family.layout(configs)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path} has damaged config.json files ({error!r}): copy the folder again.") from error
        self._sources: dict[str, list[tuple[Tensors, str]]] = {}  # the parts of each tensor
        self._transforms: dict[str, Transform] = {}
        self._filler_tensors: dict[str, torch.Tensor] = {}
        with contextlib.ExitStack() as stack:
            located: dict[TensorRef, tuple[Tensors, str]] = {}
            for component in family.component_names:
                for file in self._open(path, family, component, configs):
                    located |= _located(family, component, stack.enter_context(file))
                if component == family.denoiser.name:
                    located |= self._ema_weights(path, family, stack)
            if working:
                located |= self._ema_folder(path, family, stack)
            self._assign(located)
            self._files = stack.pop_all()
        with contextlib.suppress(LookupError, ValueError):  # it is incomplete; extracting it gives the message
            self._filler_tensors = family.filler_tensors(
                {key: self.shape(key) for key in self}, configs.get("scheduler", {})
            )

    def _open(
        self, path: Path, family: Family, component: str, configs: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[Tensors]:
        """The weight files of a component, or what a model reads in place of them."""
        if reference := checked_reference(path / component, family.component(component)):
            shapes = module_shapes(family, family.component(component), configs[component])
            yield open_reference(reference, family, family.component(component), self._layout, shapes)
            return
        self.paths[component] = tuple(_weights(path / component, component))
        for weights in self.paths[component]:
            yield open_tensors(weights)

    def close(self) -> None:
        self._files.close()

    def is_filler(self, key: str) -> bool:
        """Whether the folder lacks this tensor, which strict readers of single files expect."""
        return key not in self._sources

    def keys(self) -> list[str]:
        return [*self._sources, *(key for key in self._filler_tensors if key not in self._sources)]

    def __contains__(self, key: str) -> bool:
        return key in self._sources or key in self._filler_tensors

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self._sources:
            return tuple(self._filler_tensors[key].shape)
        return self._transforms[key].original_shape([file.shape(name) for file, name in self._sources[key]])

    def dtype(self, key: str) -> torch.dtype:
        if key not in self._sources:
            return self._filler_tensors[key].dtype
        file, name = self._sources[key][0]
        return file.dtype(name)

    def get(self, key: str) -> torch.Tensor:
        if key not in self._sources:
            return self._filler_tensors[key]
        return self._transforms[key].join([file.get(name) for file, name in self._sources[key]])

    def _assign(self, located: Mapping[TensorRef, tuple[Tensors, str]]) -> None:
        """Assign tensors to original names. Those without an original name, or with a missing part, are left out."""
        for ref in located:
            key, tensor_slice = self._layout.original(ref) or ("", None)
            if tensor_slice and all(part in located for part in tensor_slice.refs):
                self._sources[key] = [located[part] for part in tensor_slice.refs]
                self._transforms[key] = tensor_slice.transform

    @staticmethod
    def _ema_weights(path: Path, family: Family, stack: contextlib.ExitStack) -> dict[TensorRef, tuple[Tensors, str]]:
        """The denoiser's EMA weights: the main file, if there is a variant non_ema with the plain weights."""
        folder = path / family.denoiser.name
        files = _variants(names_in(folder), family.denoiser.name)
        if not any(".non_ema." in name for name in files):
            return {}
        located = {}
        for name in files.get(_STEM + ".safetensors", []):
            located |= _located_ema(family, stack.enter_context(open_tensors(folder / name)))
        return located

    @staticmethod
    def _ema_folder(path: Path, family: Family, stack: contextlib.ExitStack) -> dict[TensorRef, tuple[Tensors, str]]:
        """The EMA weights of a working folder: in that of the old extension, or with the words in the other order."""
        located: dict[TensorRef, tuple[Tensors, str]] = {}
        denoiser = family.denoiser
        for folder in (path / denoiser.ema_name, path / f"{denoiser.name}_ema"):
            for name in preferred_weights(names_in(folder), denoiser.name) if not located else ():
                located |= _located_ema(family, stack.enter_context(open_tensors(folder / name)))
        return located


def _located(family: Family, component: str, file: Tensors) -> dict[TensorRef, tuple[Tensors, str]]:
    return {TensorRef(component, family.current_name(component, name)): (file, name) for name in file}


def _located_ema(family: Family, file: Tensors) -> dict[TensorRef, tuple[Tensors, str]]:
    denoiser = family.denoiser
    return {TensorRef(denoiser.ema_name, family.current_name(denoiser.name, name)): (file, name) for name in file}


def _configs(path: Path, index_required: bool = True) -> dict[str, dict[str, Any]]:
    """The configs of the components and of the scheduler. Other folders (safety checker, feature extractor) don't
    tell the family.
    """
    files = {name: path / name / "config.json" for name in component_names()}
    files["scheduler"] = path / "scheduler" / "scheduler_config.json"
    found = {name: file for name, file in files.items() if file.is_file()}
    has_components = any(found.keys() >= {*family.component_names} for family in FAMILIES)
    if index_required and not has_components and not (path / _INDEX).is_file():
        raise UserError(f"{path} {_other_folder(path)}.")
    return {name: read_json(file) for name, file in found.items()}


def _other_folder(path: Path) -> str:
    """What a folder is that has no diffusers model, and what to choose instead."""
    names = names_in(path)
    if "config.json" in names and (path.parent / _INDEX).is_file():
        return f"is one component of a diffusers model: choose the whole folder, {path.parent}"
    if "adapter_config.json" in names or "pytorch_lora_weights.safetensors" in names:
        return "is the folder of a LoRA, not a checkpoint: choose the checkpoint that it was made for"
    inner = sorted(index.parent for pattern in ("*", "snapshots/*") for index in path.glob(f"{pattern}/{_INDEX}"))
    if inner:
        return f"has no {_INDEX}, but a folder in it has: choose {inner[0]}"
    found, missing = _of_closest_family(names)
    if found:
        lacks = f"and no {' and no '.join(missing)}" if missing else "without their config.json"
        return f"has {' and '.join(found)} {lacks}: choose a complete diffusers folder"
    files = [name for name in names if name.lower().endswith((".safetensors", ".ckpt"))]
    if files:
        return f"is a folder without {_INDEX}: choose a file in it, such as {files[0]}, or a diffusers folder"
    return f"is a folder without {_INDEX}: choose a checkpoint file or a diffusers folder"


def _index(path: Path) -> dict[str, Any]:
    file = path / _INDEX
    index = read_json(file) if file.is_file() else {}
    return index if isinstance(index, dict) else {}


def _family(path: Path, configs: Mapping[str, Mapping[str, Any]], index: Mapping[str, Any]) -> Family:
    if kind := describe_folder(index, configs):
        raise UserError(f"{path} is {kind}.")
    family = family_of_folder(configs)
    if family:
        return family
    _, missing = _of_closest_family(configs)
    if missing:
        raise UserError(f"{path} has no {' and no '.join(missing)}: choose a complete Stable Diffusion folder.")
    raise UserError(
        f"{path} is of an unsupported family: choose one of Stable Diffusion 1.x, 2.x or XL, Z-Image, Anima, FLUX.2 "
        "klein, FLUX.1 or Chroma."
    )


def _of_closest_family(names: Collection[str]) -> tuple[list[str], list[str]]:
    """Of the components of the family that has most of ``names``: those that are there, and the missing ones."""
    family = max(FAMILIES, key=lambda family: sum(name in names for name in family.component_names))
    found = [name for name in family.component_names if name in names]
    return found, [name for name in family.component_names if name not in names]


def preferred_weights(names: Iterable[str], component: str) -> list[str]:
    """The files of a component's folder that have its plain (not EMA) weights: one file or its shards; [] if none.

    A non_ema variant is preferred (the main file then has the EMA weights), then full precision over variants like
    fp16, then .safetensors over pickles.
    """
    variants = _variants(names, component)
    if not variants:
        return []

    def order(name: str) -> tuple:
        return (".non_ema." not in name, name.count("."), name.endswith(".bin"), name)

    files = variants[min(variants, key=order)]
    unsharded = [name for name in files if not _SHARD.search(name)]
    return unsharded or files


def _weights(folder: Path, component: str) -> list[Path]:
    names = preferred_weights(names_in(folder), component)
    if not names:
        raise UserError(f"{folder} has no weights ({_stem(component)}.safetensors): copy the whole folder again.")
    return [folder / name for name in names]


def _stem(component: str) -> str:
    """The name of a component's weight file in diffusers folders, without its ending."""
    return "model" if component.startswith("text_encoder") else _STEM


def names_in(folder: Path) -> list[str]:
    """The names of the files and folders in ``folder``; none if it does not exist."""
    return sorted(path.name for path in folder.glob("*"))


def _variants(names: Iterable[str], component: str) -> dict[str, list[str]]:
    """The weight files of each variant, by the file name without shard numbers."""
    stems = {_stem(component), "pytorch_model"}
    variants: dict[str, list[str]] = {}
    for name in sorted(names):
        variant = _SHARD.sub("", name)
        if name.endswith((".safetensors", ".bin")) and variant.split(".")[0] in stems:
            variants.setdefault(variant, []).append(name)
    return variants
