"""Inspection of any model file: its kind, family, metadata, problems, and differences from another file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.checkpoints.extraction_plan import plan_extraction
from dreambooth.checkpoints.lora_file import UNKNOWN_FAMILY, is_adapter_file, read_lora
from dreambooth.checkpoints.manifest import UNMAPPED, dtype_name
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.recognition import recognize
from dreambooth.checkpoints.sources import open_source
from dreambooth.checkpoints.verify import DifferenceStats
from dreambooth.checkpoints.writing import is_finite
from dreambooth.errors import UserError
from dreambooth.models.family import Family
from dreambooth.models.recognition import component_configs
from dreambooth.models.registry import component_prefixes, describe_kind, matching_families, unsupported_variant
from dreambooth.tensor_files import Tensors
from dreambooth.text import count
from dreambooth.types import ProgressCallback

_MAX_METADATA_LENGTH = 200  # characters; longer values (thumbnails, tag counts) are not displayed
_MAX_LISTED = 3
_OWN_METADATA = "dreambooth."  # configs, which are not displayed


@dataclass
class Inspection:
    """The result for one file. ``issues`` has one line for each problem."""

    path: Path
    kind: str
    family: str = ""
    prediction: str = ""
    recognized: str = ""  # family and prediction type, and what says so, for users
    inpainting: bool = False
    ema: str = ""
    n_tensors: int = 0
    n_parameters: int = 0
    precision: dict[str, int] = field(default_factory=dict)  # number of tensors by dtype (safetensors names)
    n_unmapped: int = 0  # tensors that modules don't have: noise schedules, position ids
    adapters: dict[str, int] = field(default_factory=dict)  # number of modules by "LoRA, rank 8, alpha 4"
    metadata: dict[str, str] = field(default_factory=dict)
    foreign_reader: str = ""
    issues: list[str] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)  # a row per component, compared with a base

    def as_dict(self) -> dict[str, Any]:
        """The values that apply to this file, in display order."""
        values = {
            "path": str(self.path), "kind": self.kind, "family": self.family, "prediction": self.prediction,
            "recognized": self.recognized,
            "inpainting": self.inpainting or "", "ema": self.ema, "tensors": self.n_tensors,
            "parameters": self.n_parameters, "precision": self.precision, "beside": self.n_unmapped or "",
            "adapters": self.adapters, "claims": self.metadata, "foreign_reader": self.foreign_reader,
            "odd": self.issues, "moved": self.differences,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value not in ("", {}) or key == "odd"}


def inspect(path: Path, against: Path | None = None, progress: ProgressCallback | None = None) -> Inspection:
    """Inspect a checkpoint (file or diffusers folder), LoRA, VAE, embedding or any other model file.

    ``against``: a file or folder of the same kind to compare with, tensor by tensor. ``progress`` counts tensors.
    UserError when either can't be read.
    """
    with open_source(Path(path)) as file:
        shapes = {key: file.shape(key) for key in file}
        variant = unsupported_variant(shapes)
        family = None if variant else next(iter(matching_families(shapes)), None)
        kind = "checkpoint" if family else "LoRA" if is_adapter_file(shapes) else describe_kind(file)
        inspection = Inspection(Path(path), kind, n_tensors=len(shapes))
        inspection.precision = dict(Counter(dtype_name(file.dtype(key)) for key in file).most_common())
        inspection.metadata = _displayed_metadata(file.metadata)
        if family:
            _inspect_checkpoint(inspection, family, file)
        elif "LoRA" in inspection.kind:
            _inspect_adapters(inspection)
        elif variant:
            inspection.issues.append(f"It is {variant}.")
        _check_values(inspection, file, progress)
        inspection.foreign_reader = _foreign_reader(inspection)
        if against is not None:
            with open_source(Path(against)) as base:
                _compare(inspection, family, file, base)
    return inspection


def _inspect_checkpoint(inspection: Inspection, family: Family, file: Tensors) -> None:
    shapes = {key: file.shape(key) for key in file}
    inspection.inpainting = family.inpaints(shapes)
    n_ema = sum(map(family.is_ema, file))
    inspection.ema = count(n_ema, "tensor") if n_ema else "none"
    inspection.issues += [f"missing: {part}" for part in family.missing(shapes, of_checkpoint=True)]
    inspection.family = family.title
    if inspection.issues:
        return
    try:
        recognition = recognize(file, of_checkpoint=True)
        family, inspection.prediction = recognition.family, recognition.prediction
        inspection.family, inspection.recognized = family.title, recognition.reason
        inspection.issues += [*recognition.notes, *recognition.warnings]
        configs = component_configs(family, file)
        copies = plan_extraction(file, family, configs, extract_ema=bool(n_ema), dtype=None)
    except UserError as error:
        inspection.issues.append(str(error))
        return
    unmapped = [copy.key for copy in copies if copy.component == UNMAPPED]
    inspection.n_unmapped = len(unmapped)
    # In the denoiser and the VAE the modules have every tensor of the original.
    unknown = [key for key in unmapped if key.startswith((family.denoiser.prefix, family.vae.prefix))]
    if unknown:
        inspection.issues.append(f"{count(len(unknown), 'tensor')} of unknown modules ({_listed(unknown)})")


def _inspect_adapters(inspection: Inspection) -> None:
    try:
        file = read_lora(inspection.path)
    except UserError as error:
        inspection.issues.append(str(error))
        return
    inspection.family = "" if file.made_for == UNKNOWN_FAMILY else file.made_for
    if file.no_effect:
        inspection.issues.append(file.no_effect)
    kinds: Counter[str] = Counter()
    for adapter in file.weights.values():
        rank = "" if adapter.rank is None else f", rank {adapter.rank}"
        alpha = "" if adapter.alpha is None else f", alpha {adapter.alpha:g}"
        kinds[f"{adapter.kind}{' (DoRA)' if adapter.dora_scale is not None else ''}{rank}{alpha}"] += 1
    inspection.adapters = dict(kinds.most_common())


def _check_values(inspection: Inspection, file: Tensors, progress: ProgressCallback | None) -> None:
    keys, not_finite = file.keys(), []
    for number, key in enumerate(keys):
        tensor = file.get(key)
        inspection.n_parameters += tensor.numel()
        if not is_finite(tensor):
            not_finite.append(key)
        if progress:
            progress(number + 1, len(keys), "Reading")
    # Noise schedules in published checkpoints contain an infinity.
    not_finite = [key for key in not_finite if "." in key or inspection.kind != "checkpoint"]
    if not_finite:
        inspection.issues.append(
            f"{count(len(not_finite), 'tensor')} with NaN or infinite values ({_listed(not_finite)})"
        )


def _displayed_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata without technical keys, and with the length in place of long values."""
    items = {
        key: value for key, value in metadata.items() if key != "format" and not key.startswith(_OWN_METADATA) and value
    }
    return {
        key: value if len(value) <= _MAX_METADATA_LENGTH else count(len(value), "character")
        for key, value in items.items()
    }


def _foreign_reader(inspection: Inspection) -> str:
    """The result of opening the file with the safetensors library."""
    path = inspection.path
    if path.is_dir():
        return "not tested: a folder"
    with open(path, "rb") as opened:
        if opened.read(9)[8:] != b"{":
            return "not tested: a pickle (it was read without running it)"
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as reader:
            names = set(reader.keys())
    except Exception as error:
        inspection.issues.append(f"the safetensors library can't open it: {' '.join(str(error).split())}")
        return "safetensors can't open it"
    with open_tensors(path) as own:  # ``file`` may have other names than the file itself
        is_same = names == set(own)
    if not is_same:
        inspection.issues.append(f"the safetensors library finds {count(len(names), 'tensor')}")
    return f"safetensors finds {count(len(names), 'tensor')}"


def _compare(inspection: Inspection, family: Family | None, file: Tensors, base: Tensors) -> None:
    """Count and measure the differences of each component."""
    keys, base_keys = set(file), set(base)
    for names, where in ((keys - base_keys, "only in this file"), (base_keys - keys, "only in the base")):
        if names:
            inspection.issues.append(f"{count(len(names), 'tensor')} {where} ({_listed(sorted(names))})")
    reshaped = [key for key in file if key in base_keys and file.shape(key) != base.shape(key)]
    if reshaped:
        inspection.issues.append(
            f"{count(len(reshaped), 'tensor')} with other shapes than in the base ({_listed(reshaped)})"
        )
    rows: dict[str, tuple[DifferenceStats, int, int]] = {}
    for key in file:
        if key not in base_keys or file.shape(key) != base.shape(key):
            continue
        name = _component(key, family)
        stats, n_tensors, n_changed = rows.get(name) or (DifferenceStats(), 0, 0)
        difference = file.get(key).float() - base.get(key).float()
        is_changed = bool(difference.any())
        if is_changed:
            stats.add(difference)
        rows[name] = (stats, n_tensors + 1, n_changed + is_changed)
    inspection.differences = [
        {
            "component": name,
            "changed": n_changed,
            "tensors": n_tensors,
            "mean": stats.mean,
            "largest": stats.largest,
        }
        for name, (stats, n_tensors, n_changed) in rows.items()
    ]


def _component(key: str, family: Family | None) -> str:
    prefixes = component_prefixes(family)
    return next((name for prefix, name in prefixes.items() if key.startswith(prefix)), "other" if family else "all")


def _listed(names: Iterable[str]) -> str:
    """The first few names, for messages."""
    listed = list(names)
    return ", ".join(listed[:_MAX_LISTED]) + (", ..." if len(listed) > _MAX_LISTED else "")
