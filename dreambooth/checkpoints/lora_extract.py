"""Extracting the difference of two checkpoints as a LoRA: a low-rank approximation of the difference of their weights.

Both are read one tensor at a time: only one weight of each is in memory, and the LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.lora_file import write_lora
from dreambooth.checkpoints.lora_tools import RankLimit, RetainedEnergy, low_rank_factors, make_lora, rank_metadata
from dreambooth.checkpoints.recognition import recognize
from dreambooth.checkpoints.sources import open_source
from dreambooth.checkpoints.writing import is_finite
from dreambooth.errors import UserError
from dreambooth.models.layout import Layout, Shape, TensorRef, TensorSlice
from dreambooth.models.recognition import component_configs
from dreambooth.models.registry import Family
from dreambooth.tensor_files import Tensors
from dreambooth.types import ProgressCallback


@dataclass(frozen=True)
class _Weights:
    """The weights of a source by the names in the modules."""

    file: Tensors
    family: Family
    layout: Layout
    configs: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, file: Tensors) -> _Weights:
        family = recognize(file, of_checkpoint=True).family
        configs = component_configs(family, file)
        return cls(file, family, family.layout(configs), configs)

    def shape(self, ref: TensorRef) -> Shape | None:
        original = self._locate(ref)
        return self._part_shapes(*original)[original[1].refs.index(ref)] if original else None

    def get(self, ref: TensorRef) -> torch.Tensor:
        """The weight in float32. KeyError when the source does not have it."""
        original = self._locate(ref)
        if original is None:
            raise KeyError(ref)
        key, tensor_slice = original
        parts = tensor_slice.transform.split(self.file.get(key), self._part_shapes(key, tensor_slice))
        return parts[tensor_slice.refs.index(ref)].float()

    def _locate(self, ref: TensorRef) -> tuple[str, TensorSlice] | None:
        """The key of the file that contains this tensor, with all that it consists of; None when there is none."""
        original = self.layout.original(ref)
        return original if original and original[0] in self.file else None

    def _part_shapes(self, key: str, tensor_slice: TensorSlice) -> list[Shape]:
        try:
            return tensor_slice.transform.part_shapes(self.file.shape(key))
        except ValueError as error:
            raise UserError(f"{self.file.path} is inconsistent: {key} has {error}. Use another file.") from error


def extract_lora(
    base: Path,
    tuned: Path,
    out: Path,
    limit: RankLimit,
    *,
    conv_limit: RankLimit | None = None,
    dtype: torch.dtype = torch.float16,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write a LoRA that approximates ``tuned`` on top of ``base``: checkpoints or diffusers folders of one family.

    It covers the modules of :meth:`Family.adapter_targets`, 3x3 convolutions only with a ``conv_limit``, in components
    that both have. Modules that are equal in both are left out. UserError when the two don't match, or are identical.
    """
    with open_source(base) as base_file, open_source(tuned) as tuned_file:
        before, after = _Weights.of(base_file), _Weights.of(tuned_file)
        if before.family.component_names != after.family.component_names:
            families = f"{base} is {before.family.title}, {tuned} is {after.family.title}"
            raise UserError(f"{families}: choose two checkpoints of one model family.")
        targets = _targets(before, after, with_convolutions=conv_limit is not None)
        adapters: dict[str, Adapter] = {}
        energy = RetainedEnergy()
        for number, (ref, module) in enumerate(targets.items(), 1):
            is_spatial = isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
            adapter = _difference(before, after, ref, conv_limit if is_spatial and conv_limit else limit, energy)
            if adapter:
                adapters[before.layout.adapter_names(ref)[0]] = adapter
            if progress:
                progress(number, len(targets), "Extracting the LoRA")
    if not adapters:
        raise UserError(f"{tuned} and {base} have equal weights in all modules of a LoRA: choose others.")
    metadata = {**after.family.adapter_metadata, **rank_metadata(adapters.values())}
    metadata |= {"ss_sd_model_name": Path(base).name, **energy.metadata()}
    write_lora(out, adapters, metadata, dtype)
    return Path(out)


def _targets(weights: _Weights, others: _Weights, with_convolutions: bool) -> dict[TensorRef, nn.Module]:
    """The modules that get an adapter, by the references of their weights, in components that both have."""
    targets = {}
    for component in (weights.configs.keys() & others.configs.keys()) - {weights.family.vae.name}:
        module = weights.family.make_module(component, weights.configs[component])
        for path, layer in weights.family.adapter_targets(component, module, with_convolutions).items():
            ref = TensorRef(component, f"{weights.layout.disk_name(component, path)}.weight")
            if weights.shape(ref):
                targets[ref] = layer
    return dict(sorted(targets.items()))


def _difference(
    before: _Weights, after: _Weights, ref: TensorRef, limit: RankLimit, energy: RetainedEnergy
) -> Adapter | None:
    """The adapter for the difference of a weight; None when it is equal in both."""
    if before.shape(ref) != after.shape(ref):
        shapes = f"{'.'.join(ref)}: {after.shape(ref)} and {before.shape(ref)}"
        raise UserError(
            f"{after.file.path} and {before.file.path} differ in architecture ({shapes}): choose matching checkpoints."
        )
    delta = after.get(ref) - before.get(ref)
    if not is_finite(delta):
        raise UserError(f"{'.'.join(ref)} is NaN or infinite in {after.file.path} or its base: use another file.")
    if not delta.any():
        return None
    up, down = low_rank_factors(delta.flatten(1), limit, energy)
    return make_lora(up, down, delta.shape[1:])
