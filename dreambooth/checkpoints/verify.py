"""Verification of exported files: reads them back and checks for missing, non-finite and unchanged tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.lora import match_adapters
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.manifest import UNMAPPED, Manifest, ManifestEntry
from dreambooth.checkpoints.modules import load_layout, load_scheduler_config, open_component
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.sources import reopen_source
from dreambooth.checkpoints.writing import is_finite, tensor_hash
from dreambooth.errors import UserError
from dreambooth.models.registry import family_of
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import Tensors
from dreambooth.text import count


@dataclass
class Verification:
    """The result for one file, compared with the source of the model.

    ``max_change`` and ``mean_change`` are absolute differences over the elements of changed tensors; None when the
    source is not available.
    """

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
        """One line for users."""
        changed = f"{self.n_changed:,} changed" if self.n_changed else "none changed"
        if self.n_changed and self.max_change is not None:
            changed += f" (mean difference {self.mean_change:.2g}, maximum {self.max_change:.2g})"
        text = f"{self.path.name}: {count(self.n_tensors, 'tensor')}, {changed}"
        listed = (
            (self.missing, "missing"),
            (self.left_over, "unexpected"),
            (self.not_finite, "with NaN or infinite values"),
        )
        problems = [f"{len(names):,} {problem} (first {names[0]})" for names, problem in listed if names]
        problems += self.problems
        return f"{text}; {'; '.join(problems)}" if problems else f"{text}, verified"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "ok": self.ok}


class DifferenceStats:
    """Running maximum and mean of absolute differences over many tensors."""

    def __init__(self) -> None:
        self.largest, self.total, self.n_elements = 0.0, 0.0, 0

    def add(self, difference: torch.Tensor) -> None:
        if difference.numel():
            magnitude = difference.abs()
            self.largest = max(self.largest, magnitude.max().item())
            self.total += magnitude.sum(dtype=torch.float64).item()
            self.n_elements += magnitude.numel()

    @property
    def mean(self) -> float:
        return self.total / max(self.n_elements, 1)

    def report(self, result: Verification) -> None:
        result.max_change, result.mean_change = self.largest, self.mean


def verify_checkpoint(path: Path, model: ModelFolder) -> Verification:
    """Compare a written checkpoint with the model's source, tensor by tensor.

    It must have exactly the tensors of the source, except for model_ema.*, which are optional.
    """
    manifest = Manifest.load(model.source)
    family = family_of(manifest.family)
    markers = family.marker_tensors(load_scheduler_config(model.working))
    entries = {manifest.written_key(e.key): e for e in manifest.exported_entries(family)}
    result, stats = Verification(Path(path)), DifferenceStats()
    with open_tensors(path) as file, _source(manifest) as source:
        result.n_tensors = len(file.keys())
        result.missing = [key for key in entries if key not in file and not family.is_ema(key)]
        expected = entries.keys() | markers.keys()
        result.left_over = [key for key in file if key not in expected and not family.is_ema(key)]
        for key in file:
            tensor = file.get(key)
            entry = entries.get(key)
            if (entry is None or entry.component != UNMAPPED) and not is_finite(tensor):
                result.not_finite.append(key)
            if entry is not None:
                _compare(result, stats, entry, tensor, source)
        if source:
            stats.report(result)
    return result


def verify_lora(path: Path, model: ModelFolder) -> Verification:
    """Check that every adapter of a written LoRA matches a module of the model, and that it changes anything.

    ``n_changed`` counts the changed modules; the differences are the weight deltas at weight 1.
    """
    result, stats = Verification(Path(path)), DifferenceStats()
    try:
        manifest = Manifest.load(model.source)
        shapes = manifest.shapes()
        adapters = match_adapters(read_lora(path), shapes, load_layout(model.working, family_of(manifest.family)))
    except UserError as error:
        result.problems += error.problems
        return result
    result.n_tensors = sum(len(adapter.state_dict()) for adapter in adapters.values())
    with contextlib.ExitStack() as stack:
        needed = {ref.component for ref, adapter in adapters.items() if adapter.needs_weight}
        files = {part: stack.enter_context(open_component(model.working, part)) for part in needed}
        for ref, adapter in adapters.items():
            weight = files[ref.component].get(ref.name) if adapter.needs_weight else torch.zeros(shapes[ref])
            delta = adapter.delta(weight.float())
            if not is_finite(delta):
                result.not_finite.append(".".join(ref))
            elif delta.any():
                result.n_changed += 1
                stats.add(delta)
    if not result.n_changed:
        result.problems.append("it changes nothing: all its deltas are zero")
    stats.report(result)
    return result


def _compare(
    result: Verification, stats: DifferenceStats, entry: ManifestEntry, tensor: torch.Tensor, source: Tensors | None
) -> None:
    if tuple(tensor.shape) != entry.shape:
        result.problems.append(f"{entry.key} has the shape {tuple(tensor.shape)} instead of {entry.shape}")
        return
    if tensor.dtype == entry.spec.dtype and tensor_hash(tensor) == entry.hash:
        return
    if source is None:
        result.n_changed += 1
        return
    before = source.get(entry.key)
    if not torch.equal(before.to(tensor.dtype), tensor):
        result.n_changed += 1
        stats.add(tensor.float() - before.float())


@contextlib.contextmanager
def _source(manifest: Manifest) -> Iterator[Tensors | None]:
    """The source, or None if it is gone or has other tensors now."""
    with contextlib.ExitStack() as stack:
        source = None
        with contextlib.suppress(UserError):
            source = stack.enter_context(reopen_source(manifest))
        shapes = {entry.key: entry.shape for entry in manifest.entries}
        yield source if source and {key: source.shape(key) for key in source} == shapes else None
