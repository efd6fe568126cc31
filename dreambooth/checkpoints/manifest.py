"""The manifest of a source checkpoint in ``NAME/source``, from which the single file can be rebuilt without the source.

``manifest.json`` lists every tensor of the source in its order, with a hash and its current location: a component of
``working``, or ``rest.safetensors`` in the same folder for tensors that the modules don't have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.source_files import SourceFile
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.models.family import Family
from dreambooth.models.layout import TensorRef
from dreambooth.models.transforms import IDENTITY, RESHAPE, TRANSPOSE, Chunk, Transform, transform_named
from dreambooth.tensor_files import DTYPES, TensorSpec

UNMAPPED = "rest"  # the pseudo component of tensors that the modules don't have
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class ManifestEntry:
    """One tensor of the source. ``dtype`` and ``hash`` are of the stored values, ``shape`` is that of the source."""

    key: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    hash: str
    component: str  # its folder in working/, or rest
    names: tuple[str, ...]  # in the component's file; several for a fused tensor
    transform: Transform = IDENTITY

    @property
    def refs(self) -> list[TensorRef]:
        return [TensorRef(self.component, name) for name in self.names]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.shape, DTYPES[self.dtype])

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The tensor of the source, from those in the component's file.

        It has the shape of the source also where that differs in dimensions of size 1 only: manifests don't say
        whether a 1x1 convolution is a linear layer in the module.
        """
        return self.transform.join(parts).reshape(self.shape)


@dataclass(frozen=True)
class Manifest:
    """Everything about the source that ``working`` does not contain.

    ``files``: those of a source of several files, or whose components are read in place. They are not recorded for a
    single file or folder that was copied: nothing reads it again but the comparison of exported files, which compares
    tensors, and hashing it would double the time that Create takes to read it. Older versions can't read a manifest
    that lists files.

    ``file_components``: those that the source's own file has, though the family's checkpoints don't contain them.
    """

    family: str
    source: str  # path of the file or folder
    metadata: dict[str, str]
    fingerprints: dict[str, str]  # sha256 of each component's file at creation
    entries: tuple[ManifestEntry, ...]
    added_prefix: str = ""  # before the keys, where the source's own file has own_prefix
    files: tuple[SourceFile, ...] = ()
    file_components: tuple[str, ...] = ()
    own_prefix: str = ""

    def written_key(self, key: str) -> str:
        """A key as the source's own file has it, and as checkpoints get it."""
        if not key.startswith(self.added_prefix):
            return key
        return self.own_prefix + key.removeprefix(self.added_prefix)

    def exported_entries(self, family: Family) -> list[ManifestEntry]:
        """The tensors of a checkpoint: those that the family's contain, and what the source's own file has besides."""
        others = tuple(family.component(name).prefix for name in self.file_components)
        return [entry for entry in self.entries if family.is_exported(entry.key) or entry.key.startswith(others)]

    def shapes(self) -> dict[TensorRef, tuple[int, ...]]:
        """Shapes of the components' tensors, as slices of the source's tensors."""
        return {
            ref: shape
            for entry in self.entries
            if entry.component != UNMAPPED
            for ref, shape in zip(entry.refs, entry.transform.part_shapes(entry.shape), strict=True)
        }

    def save(self, folder: Path) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["entries"] = [_values(entry) for entry in self.entries]
        values["files"] = [asdict(file) for file in self.files]
        for name in ("added_prefix", "files", "file_components", "own_prefix"):  # older versions don't know them
            if not values[name]:
                del values[name]
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        (folder / "manifest.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """UserError when it is missing or not a manifest."""
        path = Path(folder) / "manifest.json"
        try:
            values: dict[str, Any] = read_json(path)
        except UserError as error:
            raise UserError(f"{error} If it is lost, create the model again.") from error
        try:
            entries = tuple(_entry(entry) for entry in values.pop("entries"))
            files = tuple(SourceFile(**file) for file in values.pop("files", ()))
            own = tuple(values.pop("file_components", ()))
            return cls(**values, entries=entries, files=files, file_components=own)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{path} is not a valid manifest ({error}): create the model again.") from error


def _values(entry: ManifestEntry) -> dict[str, Any]:
    """The entry for JSON. A transform that older versions don't know is named in a field of its own."""
    values = asdict(entry)
    del values["transform"]
    values["transposed"] = entry.transform == TRANSPOSE
    known = (RESHAPE, _unnamed_transform(len(entry.names), values["transposed"]))
    return values if entry.transform in known else {**values, "transform": entry.transform.name}


def _entry(values: dict[str, Any]) -> ManifestEntry:
    if "name" in values:  # written by versions that did not support fused tensors
        values["names"] = [values.pop("name")]
    names, transposed, name = tuple(values["names"]), values.pop("transposed", False), values.pop("transform", None)
    unnamed = _unnamed_transform(len(names), transposed)
    transform = unnamed if name is None else transform_named(name, len(names))
    return ManifestEntry(**{**values, "shape": tuple(values["shape"]), "names": names, "transform": transform})


def _unnamed_transform(n_parts: int, transposed: bool) -> Transform:
    return TRANSPOSE if transposed else Chunk(n_parts) if n_parts > 1 else IDENTITY


def unmapped_path(source: Path) -> Path:
    """The file of the tensors that the modules don't have, in the folder ``NAME/source``."""
    return source / f"{UNMAPPED}.safetensors"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in safetensors."""
    return _NAMES[dtype]
