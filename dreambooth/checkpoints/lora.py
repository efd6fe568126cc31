"""Adapters of files applied to a model: which weight each one changes, and merging them into modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dreambooth.checkpoints.adapters import Adapter
from dreambooth.checkpoints.adapters.splitting import split_adapter
from dreambooth.checkpoints.lora_file import LoraFile
from dreambooth.checkpoints.modules import Modules
from dreambooth.errors import UserError
from dreambooth.models.adapter_spelling import underscored
from dreambooth.models.layout import Layout, Shape, TensorRef, TensorSlice
from dreambooth.models.transforms import IDENTITY
from dreambooth.text import count


class WeightedLora(NamedTuple):
    """A LoRA file with its weights for the denoiser and the text encoders."""

    path: Path
    denoiser: float = 1.0
    text: float = 1.0

    def strength(self, in_denoiser: bool) -> float:
        return self.denoiser if in_denoiser else self.text


def weighted_loras(
    paths: Sequence[Path],
    weights: Sequence[float],
    text_weights: Sequence[float],
    default: tuple[float, float] = (1.0, 1.0),
) -> list[WeightedLora]:
    """Pair each LoRA with its weights for the denoiser and the text encoders.

    ``weights``: one per LoRA, or empty for the ``default``. ``text_weights``: the same for the text encoders, or empty
    to use ``weights``. UserError when the numbers differ.
    """
    for given, noun in ((weights, "weight"), (text_weights, "text weight")):
        if given and len(given) != len(paths):
            counts = f"{count(len(paths), 'LoRA')} but {count(len(given), noun)}"
            raise UserError(f"{counts}: give one {noun} for each LoRA, or none.")
    denoiser = weights or [default[0]] * len(paths)
    text = text_weights or weights or [default[1]] * len(paths)
    return [WeightedLora(Path(path), *strengths) for path, *strengths in zip(paths, denoiser, text, strict=True)]


def lora_name(layout: Layout, component: str, module_path: str) -> str:
    """The name of a module in the LoRA files that we write."""
    return layout.adapter_names(TensorRef(component, f"{layout.disk_name(component, module_path)}.weight"))[0]


def match_adapters(file: LoraFile, shapes: Mapping[TensorRef, Shape], layout: Layout) -> dict[TensorRef, Adapter]:
    """Assign each adapter to a weight or bias among ``shapes`` (names as on disk).

    An adapter of a tensor that the original has fused is split into those of its parts. UserError that lists the
    adapters without a matching module or of another size, and the family of the file.
    """
    modules = _modules_by_name(shapes, layout)
    matched: dict[TensorRef, Adapter] = {}
    unmatched, mismatched = [], []
    for leaf, adapters in (("weight", file.weights), ("bias", file.biases)):
        for name, adapter in adapters.items():
            tensor_slice = _tensors_of(modules.get(name), leaf, layout)
            if not tensor_slice.refs or any(ref not in shapes for ref in tensor_slice.refs):
                unmatched.append(name)
                continue
            parts = _split(adapter, tensor_slice, [shapes[ref] for ref in tensor_slice.refs])
            if parts is None:
                mismatched.append(name)
                continue
            for ref, part in zip(tensor_slice.refs, parts, strict=True):
                if ref in matched:
                    raise UserError(
                        f"{file.path} has two adapters for {ref.name}, under different names. Use another LoRA."
                    )
                matched[ref] = part
    for names, problem in (
        (unmatched, "not found in this model"),
        (mismatched, "of the wrong size for this model"),
    ):
        if names:
            raise UserError(_mismatch_message(file, names, problem, n_matched=len(matched)))
    return matched


def apply_lora(modules: Modules, file: LoraFile, denoiser_weight: float = 1.0, text_weight: float | None = None) -> int:
    """Merge the adapters of a file into the modules' weights in place; returns the number of changed tensors.

    ``text_weight`` is for the text encoders; None: the same as ``denoiser_weight``. UserError, before anything is
    changed, when an adapter matches no loaded module.
    """
    lora = WeightedLora(file.path, denoiser_weight, denoiser_weight if text_weight is None else text_weight)
    parameters = {
        TensorRef(component, modules.layout.disk_name(component, name)): parameter
        for component, module in modules.parts.items()
        for name, parameter in module.named_parameters()
    }
    shapes = {ref: tuple(parameter.shape) for ref, parameter in parameters.items()}
    adapters = match_adapters(file, shapes, modules.layout)
    with torch.no_grad():
        for ref, adapter in adapters.items():
            target = parameters[ref]
            strength = lora.strength(ref.component == modules.family.denoiser.name)
            target.copy_(adapter.apply(target.cpu(), strength).to(target.dtype))
    return len(adapters)


class _Module(NamedTuple):
    """A module that a name in an adapter file means. ``is_original``: the original's, which contains it."""

    component: str
    path: str
    is_original: bool = False


def _modules_by_name(shapes: Iterable[TensorRef], layout: Layout) -> dict[str, _Module]:
    """The modules of a model by all of their names in adapter files (with underscores)."""
    modules: dict[str, _Module] = {}
    originals: dict[str, _Module] = {}
    for ref in shapes:
        path, _, leaf = ref.name.rpartition(".")
        if leaf == "weight":
            for name in layout.adapter_names(ref):
                modules.setdefault(underscored(name), _Module(ref.component, path))
            for name in layout.original_adapter_names(ref):
                originals.setdefault(name, _Module(ref.component, path, is_original=True))
    return {**originals, **modules}


def _tensors_of(module: _Module | None, leaf: str, layout: Layout) -> TensorSlice:
    """The weights or biases that an adapter of this module changes; without refs when there are none."""
    if module is None:
        return TensorSlice(())
    ref = TensorRef(module.component, f"{module.path}.{leaf}")
    original = layout.original(ref) if module.is_original else None
    return original[1] if original else TensorSlice((ref,))


def _split(adapter: Adapter, tensor_slice: TensorSlice, shapes: Sequence[Shape]) -> list[Adapter] | None:
    """The adapters of the tensors of ``shapes``; None when the sizes differ."""
    if tensor_slice.transform != IDENTITY:
        return split_adapter(adapter, tensor_slice.transform, shapes)
    return [adapter] if adapter.fits(shapes[0]) else None


def _mismatch_message(file: LoraFile, names: list[str], problem: str, n_matched: int) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    total = len({*file.weights, *file.biases})
    if n_matched > len(names):
        return (
            f"{file.path} fits this model only in part: {len(names)} of {count(total, 'module')} {problem} ({shown}). "
            "It is damaged, or was made for a model with other modules. Use another LoRA."
        )
    return (
        f"{file.path} was made for {file.made_for}: {len(names)} of {count(total, 'module')} {problem} ({shown}). "
        "Use a LoRA of this model's family."
    )
