"""What was exported, read back from disk: is it complete, finite, and has it changed where it should?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.family import family_of
from dreambooth.checkpoints.lora import match_adapters, read_lora
from dreambooth.checkpoints.manifest import UNMAPPED, ManifestEntry, Manifest
from dreambooth.checkpoints.modules import load_layout, open_component, load_scheduler_config, weights_path
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.sources import open_source
from dreambooth.checkpoints.writing import is_finite, tensor_hash
from dreambooth.errors import UserError
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import Tensors


@dataclass
class Verification:
    """The findings on one file. Changes are counted against the source; ``max_change`` and ``mean_change`` (absolute,
    over the changed tensors' elements) are None when the source is gone."""

    path: Path
    n_tensors: int = 0
    n_changed: int = 0
    max_change: float | None = None
    mean_change: float | None = None
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.missing or self.left_over or self.not_finite or self.problems)

    def summary(self) -> str:
        """One line for people."""
        changed = f"{self.n_changed} changed" if self.n_changed else "none changed"
        if self.n_changed and self.max_change is not None:
            changed += f" (by {self.mean_change:.2g} on average, {self.max_change:.2g} at most)"
        text = f"{self.path.name}: {self.n_tensors} tensors, {changed}"
        faults = [
            f"{len(names)} {what} (first {names[0]})"
            for names, what in ((self.missing, "missing"), (self.left_over, "unknown"), (self.not_finite, "not finite"))
            if names
        ]
        faults += self.problems
        return f"{text}; {'; '.join(faults)}" if faults else f"{text}, all accounted for"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "ok": self.ok}


class DifferenceStats:
    """Largest and mean absolute difference over many tensors, one at a time."""

    def __init__(self) -> None:
        self.largest, self.total, self.n_elements = 0.0, 0.0, 0

    def add(self, difference: torch.Tensor) -> None:
        if difference.numel():
            size = difference.abs()
            self.largest = max(self.largest, size.max().item())
            self.total += size.sum(dtype=torch.float64).item()
            self.n_elements += size.numel()

    @property
    def mean(self) -> float:
        return self.total / max(self.n_elements, 1)

    def report(self, found: Verification) -> None:
        found.max_change, found.mean_change = self.largest, self.mean


def verify_checkpoint(path: Path, model: ModelFolder) -> Verification:
    """Compare a written checkpoint with the model's source, tensor by tensor.

    Every tensor of the source must be there and no other, but for model_ema.*, which come and go with the unet.
    """
    manifest = Manifest.load(model.source)
    family = family_of(manifest.family)
    prefix, marker_tensors = family.ema_prefix, family.marker_tensors(load_scheduler_config(model.working))
    entries = {entry.key: entry for entry in manifest.entries}
    found, changes = Verification(Path(path)), DifferenceStats()
    with open_tensors(path) as file, _source(manifest) as source:
        found.n_tensors = len(file.keys())
        found.missing = [key for key in entries if key not in file and not key.startswith(prefix)]
        known = entries.keys() | marker_tensors.keys()
        found.left_over = [key for key in file if key not in known and not key.startswith(prefix)]
        for key in file:
            tensor = file.get(key)
            entry = entries.get(key)
            if (entry is None or entry.component != UNMAPPED) and not is_finite(tensor):
                found.not_finite.append(key)
            if entry is not None:
                _compare(found, changes, entry, tensor, source)
        if source:
            changes.report(found)
    return found


def verify_lora(path: Path, model: ModelFolder) -> Verification:
    """Check that every part of a written LoRA belongs to a module of the model, and that it does something.

    ``n_changed`` counts the modules that it changes; the changes are those of its deltas at weight 1.
    """
    found, changes = Verification(Path(path)), DifferenceStats()
    try:
        manifest = Manifest.load(model.source)
        shapes = manifest.shapes()
        adapters = match_adapters(read_lora(path), shapes, load_layout(model.working, family_of(manifest.family)))
    except UserError as error:
        found.problems += error.problems
        return found
    found.n_tensors = sum(len(adapter.state_dict()) for adapter in adapters.values())
    with contextlib.ExitStack() as stack:
        needed = {place.component for place, adapter in adapters.items() if adapter.needs_weight}
        files = {part: stack.enter_context(open_component(weights_path(model.working, part))) for part in needed}
        for place, adapter in adapters.items():
            weight = files[place.component].get(place.name) if adapter.needs_weight else torch.zeros(shapes[place])
            change = adapter.delta(weight.float())
            if not is_finite(change):
                found.not_finite.append(".".join(place))
            elif change.any():
                found.n_changed += 1
                changes.add(change)
    if not found.n_changed:
        found.problems.append("it changes nothing: all its changes are zero")
    changes.report(found)
    return found


def _compare(found: Verification, changes: DifferenceStats, entry: ManifestEntry, tensor: torch.Tensor, source: Tensors | None) -> None:
    if tuple(tensor.shape) != entry.shape:
        found.problems.append(f"{entry.key} has the shape {tuple(tensor.shape)} instead of {entry.shape}")
        return
    if tensor.dtype == entry.spec.dtype and tensor_hash(tensor) == entry.hash:
        return
    if source is None:
        found.n_changed += 1
        return
    before = source.get(entry.key)
    if not torch.equal(before.to(tensor.dtype), tensor):
        found.n_changed += 1
        changes.add(tensor.float() - before.float())


@contextlib.contextmanager
def _source(manifest: Manifest) -> Iterator[Tensors | None]:
    """The source, if it is still there and has the tensors it had."""
    with contextlib.ExitStack() as stack:
        source = None
        with contextlib.suppress(UserError):
            source = stack.enter_context(open_source(Path(manifest.source)))
        shapes = {entry.key: entry.shape for entry in manifest.entries}
        yield source if source and {key: source.shape(key) for key in source} == shapes else None
