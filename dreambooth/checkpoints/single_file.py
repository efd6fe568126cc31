"""Generate Ckpt: ``working`` back into one file with the source's names, order, shapes and dtypes.

The manifest is walked in order; each tensor is read, changed if a LoRA says so, cast and written before the next.
What was not trained comes out bit for bit as it went in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.family import Family, family_of
from dreambooth.checkpoints.layout import Layout, join
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.lora import WeightedLora, match_adapters, read_lora
from dreambooth.checkpoints.lora_hashes import HASHES
from dreambooth.checkpoints.manifest import UNMAPPED, ManifestEntry, Manifest, dtype_name
from dreambooth.checkpoints.modules import fingerprint, load_layout, open_component, load_scheduler_config, weights_path
from dreambooth.checkpoints.writing import cast, is_finite
from dreambooth.errors import UserError
from dreambooth.files import atomic_write, require_free_space
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import TensorSpec, Tensors, TensorWriter
from dreambooth.types import ProgressCallback

Ema = Literal["none", "beside", "instead"]


@dataclass(frozen=True)
class _Addition:
    """A LoRA's adapter for one tensor, and how much of it."""

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

    ``loras`` are added in fp32, one after the other. ``dtype`` converts the components, else each tensor has the
    source's. ``ema``: "beside" adds the averaged unet as model_ema.*, "instead" writes it as the unet.
    The source's own model_ema.* stay as long as the unet is the source's. Where the model predicts what the source does
    not say, the family's marks for that are added. ``metadata`` is laid over the source's.
    UserError when a LoRA does not fit, the disk is full, or the model is incomplete.
    """
    out = Path(out)
    if out.suffix.lower() != ".safetensors":
        raise UserError(f"{out}: a checkpoint is written as .safetensors; give it that ending.")
    manifest = Manifest.load(model.source)
    family = family_of(manifest.family)
    additions = _additions(manifest, load_layout(model.working, family), loras)
    lora_on_unet = any(place.component == "unet" for place in additions)
    if ema == "instead":  # the LoRA goes on whatever is written as the unet
        additions = {_averaged(place): added for place, added in additions.items()}
    entries = output_entries(model, manifest, family, ema, lora_on_unet=lora_on_unet)
    specs = {entry.key: _spec(entry, dtype) for entry in entries}
    marker_tensors = {key: mark for key, mark in family.marker_tensors(load_scheduler_config(model.working)).items() if key not in specs}
    specs |= {key: TensorSpec(tuple(mark.shape), mark.dtype) for key, mark in marker_tensors.items()}
    require_free_space(out.parent, sum(spec.n_bytes for spec in specs.values()), f"Writing {out.name}")
    with contextlib.ExitStack() as stack:
        files = _open_components(model, entries, stack)
        beside = stack.enter_context(atomic_write(out))
        writer = stack.enter_context(TensorWriter(beside, specs, _metadata(manifest, metadata)))
        for number, entry in enumerate(entries):
            file, spec = files[entry.component], specs[entry.key]
            parts = [_with_loras(file.get(place.name), additions.get(place, ())) for place in entry.places]
            whole = join(parts, spec.shape, entry.transposed)
            writer.write(entry.key, cast(whole, spec.dtype, f"{out}: {entry.key}"))
            if progress:
                progress(number + 1, len(entries), "Writing the checkpoint")
        for key, mark in marker_tensors.items():
            writer.write(key, mark)
    return out


def output_entries(
    model: ModelFolder, manifest: Manifest, family: Family, ema: Ema, *, lora_on_unet: bool = False
) -> list[ManifestEntry]:
    """The tensors that the file will have, in order, each with where its values come from."""
    is_ema = [entry.key.startswith(family.ema_prefix) for entry in manifest.entries]
    plain = [entry for entry, averaged in zip(manifest.entries, is_ema, strict=True) if not averaged]
    if ema == "none":
        keep = any(is_ema) and not lora_on_unet and _untouched(model, manifest)
        return list(manifest.entries) if keep else plain
    if not weights_path(model.working, "ema_unet").exists():
        raise UserError(f"{model.name} has no EMA weights: train with use_ema, or write it without them.")
    if ema == "instead":
        return [replace(e, component="ema_unet") if e.component == "unet" else e for e in plain]
    averaged = {entry.key: entry for entry in _ema_entries(model, family)}
    theirs = [_from_ema(entry, averaged.pop(entry.key, None)) for entry in manifest.entries]
    return [*theirs, *averaged.values()]


def _from_ema(entry: ManifestEntry, averaged: ManifestEntry | None) -> ManifestEntry:
    """The source's entry, with today's averaged values if it was an averaged one."""
    return entry if averaged is None else replace(entry, component=averaged.component, names=averaged.names)


def _untouched(model: ModelFolder, manifest: Manifest) -> bool:
    """Whether unet (and extracted EMA, if any) are still the source's: then its averaged weights are true to it."""
    parts = [part for part in ("unet", "ema_unet") if part in manifest.fingerprints]
    return all(fingerprint(model.working, part) == manifest.fingerprints[part] for part in parts)


def _ema_entries(model: ModelFolder, family: Family) -> Iterable[ManifestEntry]:
    """model_ema.* from working/ema_unet, named and shaped as the original would."""
    layout = load_layout(model.working, family)
    with open_component(weights_path(model.working, "ema_unet")) as file:
        for name in file:
            key = layout.key(TensorRef("ema_unet", name))
            if key:
                yield ManifestEntry(key, dtype_name(file.dtype(name)), file.shape(name), "", "ema_unet", (name,))


def _additions(manifest: Manifest, layout: Layout, loras: Sequence[WeightedLora]) -> dict[TensorRef, list[_Addition]]:
    """What the LoRAs add, by the weight."""
    additions: dict[TensorRef, list[_Addition]] = {}
    for use in loras:
        for place, adapter in match_adapters(read_lora(use.path), manifest.shapes(), layout).items():
            additions.setdefault(place, []).append(_Addition(use.path, adapter, use.strength(place)))
    return additions


def _averaged(place: TensorRef) -> TensorRef:
    return place._replace(component="ema_unet") if place.component == "unet" else place


def _with_loras(tensor: torch.Tensor, additions: Sequence[_Addition]) -> torch.Tensor:
    if not additions:
        return tensor
    total = tensor.float()
    for addition in additions:
        total = addition.adapter.apply(total, addition.strength)
    if not is_finite(total):
        names = ", ".join(str(addition.path) for addition in additions)
        raise UserError(f"{names} leads to values that are not numbers: the file is damaged or its weight too large.")
    return total


def _spec(entry: ManifestEntry, dtype: torch.dtype | None) -> TensorSpec:
    spec = entry.spec
    is_weight = entry.component != UNMAPPED and spec.dtype.is_floating_point
    return TensorSpec(spec.shape, dtype) if dtype and is_weight else spec


def _open_components(model: ModelFolder, entries: Iterable[ManifestEntry], stack: contextlib.ExitStack) -> dict[str, Tensors]:
    files = {}
    for component in sorted({entry.component for entry in entries}):
        rest = component == UNMAPPED
        path = model.source / "rest.safetensors" if rest else weights_path(model.working, component)
        files[component] = stack.enter_context(open_component(path))
    return files


def _metadata(manifest: Manifest, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The source's metadata, without hashes that are no longer true, under the caller's."""
    kept = {key: value for key, value in manifest.metadata.items() if key not in HASHES}
    return {"format": "pt", **kept, **(metadata or {})}
