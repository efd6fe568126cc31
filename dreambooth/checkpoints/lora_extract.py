"""What one checkpoint has learnt beyond another, as a LoRA: the low-rank part of the difference of their weights.

Both are read one tensor at a time; what is held is one weight of each, and the LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.family import Family
from dreambooth.checkpoints.layout import Layout, TensorSlice, part_shape, split
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.lora import family_metadata, target_modules, write_lora
from dreambooth.checkpoints.lora_tools import RetainedEnergy, RankLimit, make_lora, low_rank_factors, rank_metadata
from dreambooth.checkpoints.modules import disk_name, meta_module
from dreambooth.checkpoints.recognition import component_configs, recognize_family
from dreambooth.checkpoints.sources import open_source
from dreambooth.checkpoints.writing import is_finite
from dreambooth.errors import UserError
from dreambooth.tensor_files import Tensors
from dreambooth.types import ProgressCallback


@dataclass(frozen=True)
class _Weights:
    """A source's weights by the modules' names."""

    file: Tensors
    family: Family
    layout: Layout
    configs: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, file: Tensors) -> _Weights:
        family, _ = recognize_family(file)
        configs = component_configs(family, file)
        return cls(file, family, family.layout(configs), configs)

    def shape(self, place: TensorRef) -> tuple[int, ...] | None:
        key, slot = self._found(place)
        return part_shape(self.file.shape(key), len(slot.places), slot.transposed) if slot else None

    def get(self, place: TensorRef) -> torch.Tensor:
        """The weight, float32."""
        key, slot = self._found(place)
        if slot is None:
            raise KeyError(place)
        shape = part_shape(self.file.shape(key), len(slot.places), slot.transposed)
        parts = split(self.file.get(key), [shape] * len(slot.places), slot.transposed)
        return parts[slot.places.index(place)].float()

    def _found(self, place: TensorRef) -> tuple[str, TensorSlice | None]:
        """The file's key for this tensor and what that key holds; ("", None) where the file has none."""
        key = self.layout.key(place)
        return (key, self.layout.slot(key)) if key is not None and key in self.file else ("", None)


def extract_lora(
    base: Path,
    tuned: Path,
    out: Path,
    size: RankLimit,
    *,
    conv_size: RankLimit | None = None,
    dtype: torch.dtype = torch.float16,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write a LoRA that makes ``base`` nearly ``tuned``; both are checkpoints or diffusers folders of one family.

    It covers what a LoRA trained here covers, 3x3 convolutions only with a ``conv_size``. Modules that are equal in
    both are left out. UserError when the two don't belong together, or are the same.
    """
    with open_source(base) as base_file, open_source(tuned) as tuned_file:
        before, after = _Weights.of(base_file), _Weights.of(tuned_file)
        if before.family.components != after.family.components:
            families = f"{base} is {before.family.title}, {tuned} is {after.family.title}"
            raise UserError(f"{families}: give two checkpoints of one family.")
        targets = _targets(before, with_convolutions=conv_size is not None)
        adapters: dict[str, Adapter] = {}
        energy = RetainedEnergy()
        for number, (place, module) in enumerate(targets.items(), 1):
            is_wide = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
            adapter = _difference(before, after, place, conv_size if is_wide and conv_size else size, energy)
            if adapter:
                adapters[before.layout.adapter_names(place)[0]] = adapter
            if progress:
                progress(number, len(targets), "modules")
    if not adapters:
        raise UserError(f"{tuned} and {base} have the same weights where a LoRA could change them: nothing to extract.")
    metadata = {**family_metadata(after.family), **rank_metadata(adapters.values()), "ss_sd_model_name": Path(base).name}
    metadata |= energy.metadata()
    write_lora(out, adapters, metadata, dtype)
    return Path(out)


def _targets(weights: _Weights, with_convolutions: bool) -> dict[TensorRef, nn.Module]:
    """The modules that a LoRA covers, by their weights' places."""
    found = {}
    for component in weights.configs.keys() - {"vae"}:
        module = meta_module(component, weights.configs[component])
        for path, layer in target_modules(module, component, with_convolutions).items():
            place = TensorRef(component, f"{disk_name(component, path)}.weight")
            if weights.shape(place):
                found[place] = layer
    return dict(sorted(found.items()))


def _difference(before: _Weights, after: _Weights, place: TensorRef, size: RankLimit, energy: RetainedEnergy) -> Adapter | None:
    """The adapter that turns the one weight into the other; None when they are equal."""
    if before.shape(place) != after.shape(place):
        sizes = f"{before.shape(place)} and {after.shape(place)}"
        raise UserError(f"{after.file.path} and {before.file.path} differ in build ({'.'.join(place)}: {sizes}).")
    change = after.get(place) - before.get(place)
    if not is_finite(change):
        raise UserError(f"{'.'.join(place)} holds values that are not numbers in {after.file.path} or its base.")
    if not change.any():
        return None
    up, down = low_rank_factors(change.flatten(1), size, energy)
    return make_lora(up, down, change.shape[1:])
