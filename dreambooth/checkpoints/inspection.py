"""What a model file is: what its tensors show, what it claims, what a foreign reader finds, how far it moved.

Nothing here needs a model of ours; any file that can be read can be looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.checkpoints.extract import plan_extraction
from dreambooth.checkpoints.family import FAMILIES, Family, describe_kind
from dreambooth.checkpoints.lora import read_lora
from dreambooth.checkpoints.manifest import UNMAPPED, dtype_name
from dreambooth.checkpoints.recognition import component_configs, recognize_family
from dreambooth.checkpoints.sources import open_source
from dreambooth.checkpoints.stable_diffusion import CONFIG_KEY, UNET, VAE, conv_in_channels
from dreambooth.checkpoints.verify import DifferenceStats
from dreambooth.checkpoints.writing import is_finite
from dreambooth.errors import UserError
from dreambooth.tensor_files import Tensors
from dreambooth.types import ProgressCallback

_LONGEST_CLAIM = 200  # characters; thumbnails and tag counts are longer and say little to people
_SHOWN = 3


@dataclass
class Inspection:
    """The findings. ``odd`` has one line for each thing that should not be so."""

    path: Path
    kind: str
    family: str = ""
    prediction: str = ""
    inpainting: bool = False
    averages: str = ""
    n_tensors: int = 0
    n_parameters: int = 0
    precision: dict[str, int] = field(default_factory=dict)  # safetensors' name of a dtype: tensors that have it
    n_beside: int = 0  # tensors that modules don't carry: schedules, position ids
    adapters: dict[str, int] = field(default_factory=dict)  # "LoRA, rank 8, alpha 4": modules that have one
    claims: dict[str, str] = field(default_factory=dict)
    foreign_reader: str = ""
    odd: list[str] = field(default_factory=list)
    moved: list[dict[str, Any]] = field(default_factory=list)  # a row for each component, against a base

    def as_dict(self) -> dict[str, Any]:
        """What applies to this file, in the order in which people read it."""
        values = {
            "path": str(self.path), "kind": self.kind, "family": self.family, "prediction": self.prediction,
            "inpainting": self.inpainting or "", "ema": self.averages, "tensors": self.n_tensors,
            "parameters": self.n_parameters, "precision": self.precision, "beside": self.n_beside or "",
            "adapters": self.adapters, "claims": self.claims, "foreign_reader": self.foreign_reader, "odd": self.odd,
            "moved": self.moved,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value not in ("", {}) or key == "odd"}


def inspect(path: Path, against: Path | None = None, progress: ProgressCallback | None = None) -> Inspection:
    """Look at a checkpoint (file or diffusers folder), a LoRA, a VAE, an embedding or whatever else it is.

    ``against``: a file or folder of the same kind, with which it is compared tensor by tensor. ``progress`` counts
    tensors. UserError when either can't be read.
    """
    with open_source(Path(path)) as file:
        shapes = {key: file.shape(key) for key in file}
        family = next((family for family in FAMILIES if family.matches(shapes)), None)
        found = Inspection(Path(path), "checkpoint" if family else describe_kind(shapes), n_tensors=len(shapes))
        found.precision = dict(Counter(dtype_name(file.dtype(key)) for key in file).most_common())
        found.claims = _claims(file.metadata)
        if family:
            _look_at_checkpoint(found, family, file)
        elif "LoRA" in found.kind:
            _look_at_adapters(found)
        _look_at_values(found, file, progress)
        found.foreign_reader = _foreign_reader(found, file)
        if against is not None:
            with open_source(Path(against)) as base:
                _compare(found, family, file, base)
    return found


def _look_at_checkpoint(found: Inspection, family: Family, file: Tensors) -> None:
    shapes = {key: file.shape(key) for key in file}
    found.inpainting = conv_in_channels(shapes) > 4
    n_averages = sum(key.startswith(family.ema_prefix) for key in file)
    found.averages = f"{n_averages} tensors beside the weights" if n_averages else "none"
    found.odd += [f"without {part}" for part in family.missing(shapes)]
    found.family = family.title
    if found.odd:
        return
    try:
        family, found.prediction = recognize_family(file)
        found.family = family.title
        configs = component_configs(family, file)
        moves = plan_extraction(file, family.layout(configs), configs, extract_ema=bool(n_averages), dtype=None)
    except UserError as error:
        found.odd.append(str(error))
        return
    beside = [move.key for move in moves if move.component == UNMAPPED]
    found.n_beside = len(beside)
    # Inside the unet and the VAE the modules carry everything that the original has.
    unknown = [key for key in beside if key.startswith((UNET, VAE))]
    if unknown:
        found.odd.append(f"{len(unknown)} tensors of no known module ({_some(unknown)})")


def _look_at_adapters(found: Inspection) -> None:
    try:
        file = read_lora(found.path)
    except UserError as error:
        found.odd.append(str(error))
        return
    found.kind = "LoRA"
    kinds: Counter[str] = Counter()
    for adapter in file.weights.values():
        rank = "" if adapter.rank is None else f", rank {adapter.rank}"
        alpha = "" if adapter.alpha is None else f", alpha {adapter.alpha:g}"
        kinds[f"{adapter.kind}{' (DoRA)' if adapter.dora_scale is not None else ''}{rank}{alpha}"] += 1
    found.adapters = dict(kinds.most_common())


def _look_at_values(found: Inspection, file: Tensors, progress: ProgressCallback | None) -> None:
    keys, not_finite = file.keys(), []
    for number, key in enumerate(keys):
        tensor = file.get(key)
        found.n_parameters += tensor.numel()
        if not is_finite(tensor):
            not_finite.append(key)
        if progress:
            progress(number + 1, len(keys), "Reading")
    # Schedules of the original code do hold an infinity, as published.
    not_finite = [key for key in not_finite if "." in key or found.kind != "checkpoint"]
    if not_finite:
        found.odd.append(f"{len(not_finite)} tensors hold NaN or infinity ({_some(not_finite)})")


def _claims(metadata: Mapping[str, str]) -> dict[str, str]:
    told = {key: value for key, value in metadata.items() if key not in ("format", CONFIG_KEY) and value}
    return {key: value if len(value) <= _LONGEST_CLAIM else f"{len(value)} characters" for key, value in told.items()}


def _foreign_reader(found: Inspection, file: Tensors) -> str:
    """What the safetensors library itself makes of it."""
    path = found.path
    if path.is_dir():
        return "not asked: a folder"
    with open(path, "rb") as opened:
        if opened.read(9)[8:] != b"{":
            return "not asked: a pickle, which was read without running it"
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as theirs:
            names = set(theirs.keys())
    except Exception as error:
        found.odd.append(f"the safetensors library refuses it: {' '.join(str(error).split())}")
        return "safetensors refuses it"
    if names != set(file):
        found.odd.append(f"the safetensors library finds {len(names)} tensors")
    return f"safetensors finds {len(names)} tensors"


def _compare(found: Inspection, family: Family | None, file: Tensors, base: Tensors) -> None:
    """Count and measure, component by component, what differs."""
    ours, theirs = set(file), set(base)
    for names, where in ((ours - theirs, "only here"), (theirs - ours, "only in the base")):
        if names:
            found.odd.append(f"{len(names)} tensors are {where} ({_some(sorted(names))})")
    misfits = [key for key in file if key in theirs and file.shape(key) != base.shape(key)]
    if misfits:
        found.odd.append(f"{len(misfits)} tensors have other shapes than in the base ({_some(misfits)})")
    rows: dict[str, tuple[DifferenceStats, int, int]] = {}
    for key in file:
        if key not in theirs or file.shape(key) != base.shape(key):
            continue
        name = _component(key, family)
        changes, n_tensors, n_changed = rows.get(name) or (DifferenceStats(), 0, 0)
        difference = file.get(key).float() - base.get(key).float()
        is_changed = bool(difference.any())
        if is_changed:
            changes.add(difference)
        rows[name] = (changes, n_tensors + 1, n_changed + is_changed)
    found.moved = [
        {
            "component": name,
            "changed": n_changed,
            "tensors": n_tensors,
            "mean": changes.mean,
            "largest": changes.largest,
        }
        for name, (changes, n_tensors, n_changed) in rows.items()
    ]


def _component(key: str, family: Family | None) -> str:
    prefixes = {UNET: "unet", VAE: "vae"}
    if family:
        prefixes |= {family.ema_prefix: "ema_unet"} | {prefix: name for name, prefix in family.text_prefixes.items()}
    else:
        prefixes |= {"lora_unet": "unet", "lora_te1": "text_encoder", "lora_te2": "text_encoder_2",
                     "lora_te": "text_encoder"}  # fmt: skip
    return next((name for prefix, name in prefixes.items() if key.startswith(prefix)), "beside" if family else "all")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
