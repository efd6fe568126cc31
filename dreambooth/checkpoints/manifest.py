"""What a source checkpoint consisted of, kept in ``NAME/source`` so that the file itself may go.

``manifest.json`` lists every tensor of the source in its order, with a hash, and where its values are now: in a
component of ``working``, or in ``rest.safetensors`` beside the manifest (what the modules don't carry).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.layout import part_shape
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.tensor_files import DTYPES, TensorSpec

UNMAPPED = "rest"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class ManifestEntry:
    """One tensor of the source. ``dtype`` and ``hash`` are those of the values kept, ``shape`` is the source's."""

    key: str
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    hash: str
    component: str  # unet, vae, text_encoder, text_encoder_2, ema_unet, or rest
    names: tuple[str, ...]  # in the component's file; several where the source keeps them in one tensor
    transposed: bool = False

    @property
    def places(self) -> list[TensorRef]:
        return [TensorRef(self.component, name) for name in self.names]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.shape, DTYPES[self.dtype])


@dataclass(frozen=True)
class Manifest:
    """Everything about the source that ``working`` does not say."""

    family: str
    source: str  # path of the file or folder
    metadata: dict[str, str]
    fingerprints: dict[str, str]  # sha256 of each component's file as it was made
    entries: tuple[ManifestEntry, ...]

    def shapes(self) -> dict[TensorRef, tuple[int, ...]]:
        """The components' tensors with their shapes in the source, of which each may be a part."""
        return {
            place: part_shape(entry.shape, len(entry.names), entry.transposed)
            for entry in self.entries
            if entry.component != UNMAPPED
            for place in entry.places
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
            raise UserError(f"{error} Create the model again.") from error
        try:
            entries = tuple(_entry(entry) for entry in values.pop("entries"))
            return cls(**values, entries=entries)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is no manifest of ours ({error}): create the model again.") from error


def _entry(values: dict[str, Any]) -> ManifestEntry:
    if "name" in values:  # as written before a tensor could hold several
        values["names"] = [values.pop("name")]
    return ManifestEntry(**{**values, "shape": tuple(values["shape"]), "names": tuple(values["names"])})


def dtype_name(dtype: torch.dtype) -> str:
    return _NAMES[dtype]
