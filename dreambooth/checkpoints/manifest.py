"""The manifest of a source checkpoint in ``NAME/source``, from which the single file can be rebuilt without the source.

``manifest.json`` lists every tensor of the source in its order, with a hash and its current location: a component of
``working``, or ``rest.safetensors`` in the same folder for tensors that the modules don't have.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.models.layout import TensorRef, part_shape
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
    component: str  # unet, vae, text_encoder, text_encoder_2, ema_unet, or rest
    names: tuple[str, ...]  # in the component's file; several for a fused tensor
    transposed: bool = False

    @property
    def refs(self) -> list[TensorRef]:
        return [TensorRef(self.component, name) for name in self.names]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.shape, DTYPES[self.dtype])


@dataclass(frozen=True)
class Manifest:
    """Everything about the source that ``working`` does not contain."""

    family: str
    source: str  # path of the file or folder
    metadata: dict[str, str]
    fingerprints: dict[str, str]  # sha256 of each component's file at creation
    entries: tuple[ManifestEntry, ...]

    def shapes(self) -> dict[TensorRef, tuple[int, ...]]:
        """Shapes of the components' tensors, as slices of the source's tensors."""
        return {
            ref: part_shape(entry.shape, len(entry.names), entry.transposed)
            for entry in self.entries
            if entry.component != UNMAPPED
            for ref in entry.refs
        }

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))
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
            return cls(**values, entries=entries)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is not a valid manifest ({error}): create the model again.") from error


def _entry(values: dict[str, Any]) -> ManifestEntry:
    if "name" in values:  # written by versions that did not support fused tensors
        values["names"] = [values.pop("name")]
    return ManifestEntry(**{**values, "shape": tuple(values["shape"]), "names": tuple(values["names"])})


def unmapped_path(source: Path) -> Path:
    """The file of the tensors that the modules don't have, in the folder ``NAME/source``."""
    return source / f"{UNMAPPED}.safetensors"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in safetensors."""
    return _NAMES[dtype]
