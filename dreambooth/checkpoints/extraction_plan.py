"""Where Create puts each tensor of a source, and why a source can't be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.manifest import UNMAPPED
from dreambooth.checkpoints.writing import trainable_dtype
from dreambooth.errors import UserError
from dreambooth.models.family import Family
from dreambooth.models.layout import Layout, Shape, TensorRef, TensorSlice
from dreambooth.models.transforms import IDENTITY, Transform
from dreambooth.tensor_files import Tensors, TensorSpec
from dreambooth.text import count

# Tensors beside a weight in quantized files, by which its values are multiplied: fp8_scaled, and ComfyUI's.
_SCALES = ("scale_weight", "weight_scale", "comfy_quant")


@dataclass(frozen=True)
class TensorCopy:
    """Where one tensor of the source is copied to, possibly split into several."""

    key: str
    component: str
    names: tuple[str, ...]
    specs: tuple[TensorSpec, ...]  # as written: shapes of the module, dtype of the file
    transform: Transform = IDENTITY

    @property
    def refs(self) -> list[TensorRef]:
        return [TensorRef(self.component, name) for name in self.names]


def plan_extraction(
    tensors: Tensors,
    family: Family,
    configs: Mapping[str, Mapping[str, Any]],
    *,
    extract_ema: bool,
    dtype: torch.dtype | None,
) -> list[TensorCopy]:
    """Where each tensor of the source is copied to. UserError when the components would be incomplete."""
    layout, denoiser = family.layout(configs), family.denoiser
    expected = {component: _expected(tensors.path, family, component, config) for component, config in configs.items()}
    shapes = {TensorRef(part, name): shape for part, names in expected.items() for name, shape in names.items()}
    ema_refs = [TensorRef(denoiser.ema_name, name) for name in expected[denoiser.name]]
    ema_slices = _ema_slices(tensors, layout, ema_refs) if extract_ema else {}
    shapes |= {ref: expected[denoiser.name][ref.name] for ref in ema_refs if ema_slices}
    copies: list[TensorCopy] = []
    assigned: set[TensorRef] = set()
    for key in tensors:
        tensor_slice = ema_slices.get(key) or layout.tensor_slice(key)
        refs = set(tensor_slice.refs) if tensor_slice else set()
        if tensor_slice is None or not refs <= shapes.keys() or refs & assigned:
            copies.append(TensorCopy(key, UNMAPPED, (key,), (TensorSpec(tensors.shape(key), tensors.dtype(key)),)))
            continue
        assigned |= refs
        file_dtype = dtype if dtype and tensors.dtype(key).is_floating_point else trainable_dtype(tensors.dtype(key))
        names = tuple(ref.name for ref in tensor_slice.refs)
        specs = tuple(TensorSpec(shapes[ref], file_dtype) for ref in tensor_slice.refs)
        copies.append(TensorCopy(key, tensor_slice.refs[0].component, names, specs, tensor_slice.transform))
    _require_complete(tensors, layout, shapes, copies)
    return copies


def _require_complete(
    tensors: Tensors, layout: Layout, shapes: Mapping[TensorRef, Shape], copies: list[TensorCopy]
) -> None:
    found = {ref for copy in copies for ref in copy.refs}
    missing = [layout.key(ref) or ref.name for ref in shapes if ref not in found]
    if missing:
        path = tensors.path_of(missing[0])
        raise UserError(
            f"{path} is incomplete: {count(len(missing), 'tensor')} missing, first {missing[0]}. "
            "Download it again or use another one."
        )
    for copy in copies:
        if copy.component == UNMAPPED:
            continue
        # A 1x1 convolution may be a linear layer in the module: same values, fewer dimensions.
        expected = copy.transform.original_shape([spec.shape for spec in copy.specs])
        if _squeezed(tensors.shape(copy.key)) != _squeezed(expected):
            n_parts = copy.transform.n_parts
            parts = f"{n_parts} parts of " if n_parts > 1 else ""
            raise UserError(
                f"{tensors.path_of(copy.key)} is inconsistent: {copy.key} has the shape {tensors.shape(copy.key)}, "
                f"expected {parts}{'x'.join(map(str, copy.specs[0].shape))}. Use another file."
            )
        module = copy.key.removesuffix("weight")
        if not copy.specs[0].dtype.is_floating_point or any(module + name in tensors for name in _SCALES):
            raise UserError(
                f"{tensors.path_of(copy.key)} is quantized ({copy.key} has integer or scaled values), which can't be "
                "trained: use the checkpoint that it was made from."
            )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _expected(source: Path, family: Family, component: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    try:
        return family.component(component).disk_shapes(family.make_module(component, config))
    except Exception as error:  # the types of the libraries' exceptions differ between versions
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: its {component} has invalid sizes ({reason}): use another file.") from error


def _ema_slices(tensors: Tensors, layout: Layout, refs: Sequence[TensorRef]) -> dict[str, TensorSlice]:
    """The keys of the EMA weights ``refs``; {} unless the source has all of them."""
    tensor_slices = {}
    for ref in refs:
        key, tensor_slice = layout.original(ref) or ("", None)
        if tensor_slice is None or key not in tensors:
            return {}
        tensor_slices[key] = tensor_slice
    return tensor_slices
