"""Generate Ckpt: writes ``working`` as a single file with the names, order, shapes and dtypes of the source.

Tensors are processed one at a time in the order of the manifest: read, merged with LoRAs, cast, written. Weights that
were not trained are bit-identical to the source.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.lora import WeightedLora, match_adapters
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.lora_hashes import HASHES
from dreambooth.checkpoints.manifest import UNMAPPED, Manifest, ManifestEntry, dtype_name, unmapped_path
from dreambooth.checkpoints.modules import (
    fingerprint,
    load_layout,
    load_scheduler_config,
    open_component,
    open_weights,
    weights_path,
)
from dreambooth.checkpoints.writing import cast, is_finite
from dreambooth.errors import UserError
from dreambooth.files import atomic_write, require_free_space
from dreambooth.models.family import Family
from dreambooth.models.layout import Layout, TensorRef
from dreambooth.models.registry import family_of
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import Tensors, TensorSpec, TensorWriter
from dreambooth.types import ProgressCallback

Ema = Literal["none", "include", "replace"]


@dataclass(frozen=True)
class _Addition:
    """A LoRA's adapter for one tensor, and its weight."""

    path: Path
    adapter: Adapter
    strength: float


def write_checkpoint(
    model: ModelFolder,
    out: Path,
    *,
    loras: Sequence[WeightedLora] = (),
    dtype: torch.dtype | None = None,
    ema: Ema = "none",
    metadata: Mapping[str, str] | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write the model as a single .safetensors file in the original layout and return its path.

    ``loras`` are merged in fp32, one after the other. ``dtype`` converts the components, otherwise each tensor has the
    dtype of the source. ``ema``: "include" adds the denoiser's EMA weights with the prefix that the family's files have
    for them, if any; "replace" writes them as its weights. The source's own EMA weights are written as long as the
    denoiser is unchanged. Marker tensors of the family are added if the source lacks them, and a ``.yaml`` is written
    beside the file if the source has one or WebUIs need it (see
    :func:`dreambooth.models.sd.ldm_config_writing.config_to_write`). ``metadata`` is merged over that of the source.
    UserError when a LoRA does not match, the disk is full, or the model is incomplete.
    """
    out = Path(out)
    if out.suffix.lower() != ".safetensors":
        raise UserError(f"{out}: checkpoints are written as .safetensors: use that file extension.")
    manifest = Manifest.load(model.source)
    family = family_of(manifest.family)
    additions = _additions(manifest, family, load_layout(model.working, family), loras)
    denoiser = family.denoiser
    changes_denoiser = any(ref.component == denoiser.name for ref in additions)
    if ema == "replace":  # LoRAs apply to the weights that are written as those of the denoiser
        renamed = {denoiser.name: denoiser.ema_name}
        additions = {
            ref._replace(component=renamed.get(ref.component, ref.component)): added for ref, added in additions.items()
        }
    entries = output_entries(model, manifest, family, ema, changes_denoiser=changes_denoiser)
    specs = {entry.key: _spec(entry, dtype) for entry in entries}
    markers = family.marker_tensors(load_scheduler_config(model.working))
    new_markers = {key: marker for key, marker in markers.items() if key not in specs}
    specs |= {key: TensorSpec(tuple(marker.shape), marker.dtype) for key, marker in new_markers.items()}
    require_free_space(out.parent, sum(spec.n_bytes for spec in specs.values()), f"Writing {out.name}")
    with contextlib.ExitStack() as stack:
        files = _open_components(model, entries, stack)
        if sidecar := family.sidecar(model.working, model.source):  # first, so that no checkpoint is ever without it
            ending, contents = sidecar
            with atomic_write(out.with_suffix(ending)) as temporary:
                temporary.write_bytes(contents)
        temporary = stack.enter_context(atomic_write(out))
        written = {manifest.written_key(key): spec for key, spec in specs.items()}
        writer = stack.enter_context(TensorWriter(temporary, written, _metadata(manifest, metadata)))
        for number, entry in enumerate(entries):
            file, spec = files[entry.component], specs[entry.key]
            parts = [_with_loras(file.get(ref.name), additions.get(ref, ())) for ref in entry.refs]
            writer.write(manifest.written_key(entry.key), cast(entry.join(parts), spec.dtype, f"{out}: {entry.key}"))
            if progress:
                progress(number + 1, len(entries), "Writing the checkpoint")
        for key, marker in new_markers.items():
            writer.write(key, marker)
    return out


def output_entries(
    model: ModelFolder, manifest: Manifest, family: Family, ema: Ema, *, changes_denoiser: bool = False
) -> list[ManifestEntry]:
    """The tensors of the file to write, in order, each with the location of its values."""
    denoiser = family.denoiser
    exported = manifest.exported_entries(family)
    regular = [entry for entry in exported if not family.is_ema(entry.key)]
    if ema == "none" or (ema == "include" and not family.ema_prefix):
        has_ema = len(regular) < len(exported)
        include_source_ema = has_ema and not changes_denoiser and _is_denoiser_unchanged(model, manifest, family)
        return exported if include_source_ema else regular
    if not weights_path(model.working, denoiser.ema_name).exists():
        raise UserError(f"{model.name} has no EMA weights: train with use_ema, or write it without EMA weights.")
    if ema == "replace":
        return [replace(e, component=denoiser.ema_name) if e.component == denoiser.name else e for e in regular]
    ema_entries = {entry.key: entry for entry in _ema_entries(model, family)}
    updated = [_with_ema_values(entry, ema_entries.pop(entry.key, None)) for entry in exported]
    return [*updated, *ema_entries.values()]


def _with_ema_values(entry: ManifestEntry, ema_entry: ManifestEntry | None) -> ManifestEntry:
    """The source's entry, with the values of ``ema_entry`` if there is one."""
    if ema_entry is None:
        return entry
    return replace(entry, component=ema_entry.component, names=ema_entry.names, transform=ema_entry.transform)


def _is_denoiser_unchanged(model: ModelFolder, manifest: Manifest, family: Family) -> bool:
    """Whether the denoiser and its EMA (if any) are those of the source, so that its EMA weights still belong to it."""
    names = (family.denoiser.name, family.denoiser.ema_name)
    parts = [part for part in names if part in manifest.fingerprints]
    return all(fingerprint(model.working, part) == manifest.fingerprints[part] for part in parts)


def _ema_entries(model: ModelFolder, family: Family) -> Iterable[ManifestEntry]:
    """The entries of model_ema.* from the EMA folder in working/, with original names and shapes."""
    layout, component = load_layout(model.working, family), family.denoiser.ema_name
    written: set[str] = set()
    with open_component(model.working, component) as file:
        for name in file:
            key, tensor_slice = layout.original(TensorRef(component, name)) or ("", None)
            if tensor_slice is not None and key not in written:
                written.add(key)
                names = tuple(ref.name for ref in tensor_slice.refs)
                shape = tensor_slice.transform.original_shape([file.shape(part) for part in names])
                dtype = dtype_name(file.dtype(name))
                yield ManifestEntry(key, dtype, shape, "", component, names, tensor_slice.transform)


def _additions(
    manifest: Manifest, family: Family, layout: Layout, loras: Sequence[WeightedLora]
) -> dict[TensorRef, list[_Addition]]:
    """The adapters of all LoRAs by the weight they change."""
    additions: dict[TensorRef, list[_Addition]] = {}
    for use in loras:
        file = read_lora(use.path)
        adapters = match_adapters(file, manifest.shapes(), layout)
        if file.no_effect:
            raise UserError(file.no_effect)
        for ref, adapter in adapters.items():
            strength = use.strength(ref.component == family.denoiser.name)
            additions.setdefault(ref, []).append(_Addition(use.path, adapter, strength))
    return additions


def _with_loras(tensor: torch.Tensor, additions: Sequence[_Addition]) -> torch.Tensor:
    if not additions:
        return tensor
    total = tensor.float()
    for addition in additions:
        total = addition.adapter.apply(total, addition.strength)
    if not is_finite(total):
        names = ", ".join(str(addition.path) for addition in additions)
        raise UserError(
            f"{names} leads to NaN or infinite values: use a lower weight, or another file if this one is damaged."
        )
    return total


def _spec(entry: ManifestEntry, dtype: torch.dtype | None) -> TensorSpec:
    spec = entry.spec
    is_weight = entry.component != UNMAPPED and spec.dtype.is_floating_point
    return TensorSpec(spec.shape, dtype) if dtype and is_weight else spec


def _open_components(
    model: ModelFolder, entries: Iterable[ManifestEntry], stack: contextlib.ExitStack
) -> dict[str, Tensors]:
    files = {}
    for component in sorted({entry.component for entry in entries}):
        is_unmapped = component == UNMAPPED
        file = open_weights(unmapped_path(model.source)) if is_unmapped else open_component(model.working, component)
        files[component] = stack.enter_context(file)
    return files


def _metadata(manifest: Manifest, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The metadata of the source without its hashes, which are outdated, merged with the caller's."""
    copied = {key: value for key, value in manifest.metadata.items() if key not in HASHES}
    return {"format": "pt", **copied, **(metadata or {})}
