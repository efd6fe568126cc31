"""Components that are read from the files of the source in place, instead of being copied to ``working``.

``working/COMPONENT/source.json`` lists these files as they were when the model was created. They are only read. Once a
component is trained, its own weight file in the same folder takes their place.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.joined_files import open_joined
from dreambooth.checkpoints.source_files import WHOLE, SourceFile
from dreambooth.checkpoints.writing import cast, trainable_dtype
from dreambooth.errors import UserError
from dreambooth.files import as_user_error, content_hash, read_json, write_json
from dreambooth.models.components import Component
from dreambooth.models.family import Family
from dreambooth.models.layout import Layout, Shape, TensorRef, TensorSlice
from dreambooth.models.libraries import require_libraries
from dreambooth.tensor_files import Tensors

_NAME = "source.json"
_MAX_CACHED = 4  # original tensors of which other parts will be read soon: weights and biases of fused projections


@dataclass(frozen=True)
class Reference:
    """``is_diffusers``: whether the files have the names of the modules, as in a diffusers folder."""

    files: tuple[SourceFile, ...]
    is_diffusers: bool = False

    @property
    def fingerprint(self) -> str:
        """sha256 of the file, or of the hashes of several."""
        hashes = [file.sha256 for file in self.files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def write_reference(folder: Path, reference: Reference) -> None:
    """Record the files of the component with this folder in ``working``."""
    write_json(folder / _NAME, asdict(reference))


def read_reference(folder: Path) -> Reference | None:
    """The files of a component; None if it has weights of its own, or none at all."""
    path = folder / _NAME
    if not path.is_file() or any(folder.glob("*.safetensors")):
        return None
    values = read_json(path)
    try:
        return Reference(tuple(SourceFile(**file) for file in values["files"]), bool(values["is_diffusers"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): create the model again.") from error


def remove_reference(folder: Path) -> None:
    """Forget the files of a component that now has weights of its own."""
    (folder / _NAME).unlink(missing_ok=True)


def checked_reference(folder: Path, component: Component) -> Reference | None:
    """As :func:`read_reference`, once the files are found to be the same.

    If size or modification time of one differ, its content decides, and the record is updated. UserError when a file is
    gone or has other content.
    """
    reference = read_reference(folder)
    if reference is None:
        return None
    what = f"{component.title} of {folder.parent.parent.name}"
    checked = replace(reference, files=tuple(_checked(file, what) for file in reference.files))
    if checked != reference:
        write_reference(folder, checked)
    return checked


def _checked(file: SourceFile, what: str) -> SourceFile:
    path = Path(file.path)
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns):
            return file
        is_same = status.st_size == file.size and _content_hash(path, status.st_mtime_ns) == file.sha256
    except FileNotFoundError:
        raise UserError(f"{path} ({what}) is not there any more: move it back, or create the model again.") from None
    except OSError as error:
        raise as_user_error(error, path, "read") from error
    if not is_same:
        raise UserError(
            f"{path} ({what}) has changed since the model was created: restore the old file, or create the model again."
        )
    return replace(file, mtime_ns=status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _content_hash(path: Path, mtime_ns: int) -> str:
    """``mtime_ns`` is part of the cache key: a changed file is asked for several times before a run."""
    return content_hash(path)


def module_shapes(family: Family, component: Component, config: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes of a component's tensors by their names on disk, from its config."""
    require_libraries(family)
    return dict(_module_shapes(family, component, json.dumps(config)))


@functools.lru_cache(maxsize=16)
def _module_shapes(family: Family, component: Component, config: str) -> dict[str, Shape]:
    """Building a large module takes a while even without weights, and a run asks for the same one several times."""
    return component.disk_shapes(family.make_module(component.name, json.loads(config)))


def open_reference(
    reference: Reference, family: Family, component: Component, layout: Layout, shapes: Mapping[str, Shape]
) -> Tensors:
    """The component's tensors under their names on disk, as its copy would have them.

    ``shapes``: those of the tensors. UserError when a file is unreadable or a tensor is missing.
    """
    file = open_joined([Path(file.path) for file in reference.files])
    try:
        if reference.is_diffusers:
            names = {family.current_name(component.name, name): name for name in file}
            slices = {name: TensorSlice((TensorRef(component.name, name),)) for name in shapes}
            keys = {name: name for name in shapes}
        else:
            if reference.files[0].component == WHOLE:
                file = family.with_original_names(file)
                names = {key: key for key in file}
            else:
                names = family.component_keys(component, file)
            originals = {name: layout.original(TensorRef(component.name, name)) for name in shapes}
            keys = {name: original[0] for name, original in originals.items() if original}
            slices = {original[0]: original[1] for original in originals.values() if original}
        missing = [name for name in shapes if keys.get(name) not in names]
        if missing:
            raise UserError(f"{file.path} has no {missing[0]} of the {component.title}: create the model again.")
        return _ReferencedTensors(file, names, keys, slices, shapes)
    except BaseException:
        file.close()
        raise


class _ReferencedTensors(Tensors):
    """``names``: those of the file by original key. ``keys``: the original key of each tensor."""

    def __init__(
        self,
        file: Tensors,
        names: Mapping[str, str],
        keys: Mapping[str, str],
        slices: Mapping[str, TensorSlice],
        shapes: Mapping[str, Shape],
    ) -> None:
        self.path, self.metadata = file.path, file.metadata
        self._file, self._names, self._keys, self._slices, self._shapes = file, names, keys, slices, shapes
        self._cached: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()  # parts by original key

    def close(self) -> None:
        self._file.close()

    def keys(self) -> list[str]:
        return list(self._shapes)

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes[key]

    def dtype(self, key: str) -> torch.dtype:
        return trainable_dtype(self._file.dtype(self._names[self._keys[key]]))

    def get(self, key: str) -> torch.Tensor:
        original = self._keys[key]
        parts = self._cached.pop(original, None)
        if parts is None or key not in parts:
            parts = self._parts(original)
        tensor = parts.pop(key)
        if parts:
            self._cached[original] = parts
            while len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
        return tensor

    def _parts(self, original: str) -> dict[str, torch.Tensor]:
        tensor = self._file.get(self._names[original])
        tensor = cast(tensor, trainable_dtype(tensor.dtype), f"{self.path}: {original}")
        names = [ref.name for ref in self._slices[original].refs]
        parts = self._slices[original].transform.split(tensor, [self._shapes[name] for name in names])
        return {name: _owned(part, tensor) for name, part in zip(names, parts, strict=True)}


def _owned(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor that keeps nothing else in memory."""
    return part.contiguous() if part.numel() == whole.numel() else part.clone(memory_format=torch.contiguous_format)


def reference_paths(folder: Path) -> Sequence[Path]:
    """The files that a component is read from in place; none if it has weights of its own."""
    reference = read_reference(folder)
    return [Path(file.path) for file in reference.files] if reference else []
