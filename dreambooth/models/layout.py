"""Mapping between the tensors of an original single file, those of the modules, and the module names of adapter files.

It is mostly one to one. A fused attention tensor of open_clip stacks three tensors of transformers, its text projection
is stored transposed, and a 1x1 convolution of the original may be a linear layer in the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from dreambooth.models.components import DENOISER, Component

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class TensorRef(NamedTuple):
    """A tensor in a diffusers folder: the component and the name of the tensor in it."""

    component: str
    name: str


class NameMap(Protocol):
    """Translates tensor names of one component, without the prefix of the single file."""

    def to_modules(self, name: str) -> tuple[str, ...]: ...
    def to_original(self, name: str) -> str | None: ...


@dataclass(frozen=True)
class ComponentLayout:
    """One component of the single file.

    ``transposed``: original tensors that are stored transposed. ``is_convolution``: whether an original tensor is a 1x1
    convolution where the module has a linear layer.
    """

    component: Component
    names: NameMap
    adapter_prefixes: tuple[str, ...] = ()  # the first is written, all are read
    adapter_naming: tuple[str, ...] = ("modules",)  # module names in adapter files: of "modules", of the "original"
    transposed: frozenset[str] = frozenset()
    is_convolution: Callable[[str], bool] = lambda name: False


@dataclass(frozen=True)
class TensorSlice:
    """The tensors of the modules that one tensor of the original consists of, in order."""

    refs: tuple[TensorRef, ...]
    transposed: bool = False


class Layout:
    """Tensor names of a model's original single file and of its diffusers folder."""

    def __init__(self, components: Sequence[ComponentLayout], ema_prefix: str):
        self._components = {part.component.name: part for part in components}
        self._denoiser = next(part for part in components if part.component.role == DENOISER)
        self._ema_prefix = ema_prefix

    def tensor_slice(self, key: str) -> TensorSlice | None:
        """The module tensors in an original tensor; None for one that modules don't have (schedules, position ids)."""
        for part in self._components.values():
            if key.startswith(part.component.prefix):
                name = key.removeprefix(part.component.prefix)
                refs = tuple(TensorRef(part.component.name, module_name) for module_name in part.names.to_modules(name))
                if refs:
                    return TensorSlice(refs, transposed=name in part.transposed)
        return None

    def key(self, ref: TensorRef) -> str | None:
        """The original tensor that contains a module tensor; None when the original has no such tensor."""
        if ref.component == self._denoiser.component.ema_name:
            name = self._denoiser.names.to_original(ref.name)
            return name and ema_key(self._ema_prefix, name)
        part = self._components[ref.component]
        name = part.names.to_original(ref.name)
        return name and part.component.prefix + name

    def key_shape(self, key: str, shapes: Sequence[Shape]) -> Shape:
        """The shape of an original tensor that consists of module tensors of ``shapes``."""
        tensor_slice = self.tensor_slice(key)
        first = shapes[0]
        if tensor_slice is not None and tensor_slice.transposed:
            return first[::-1]
        if len(shapes) > 1:
            return (sum(shape[0] for shape in shapes), *first[1:])
        if len(first) != 2:
            return first
        owner = next((part for part in self._components.values() if key.startswith(part.component.prefix)), None)
        is_convolution = owner is not None and owner.is_convolution(key.removeprefix(owner.component.prefix))
        return (*first, 1, 1) if is_convolution else first

    def disk_name(self, component: str, name: str) -> str:
        """The name on disk of a parameter or module of a component."""
        return self._components[component].component.disk_name(name)

    def adapter_names(self, ref: TensorRef) -> tuple[str, ...]:
        """Names of a weight's module in adapter files; the first one is written."""
        part = self._components.get(ref.component)
        module = ref.name.rpartition(".")[0]
        if part is None or not module:
            return ()
        by_naming = {"modules": module, "original": part.names.to_original(module)}
        names = [by_naming[naming] for naming in part.adapter_naming if by_naming[naming]]
        return tuple(f"{prefix}_{name}".replace(".", "_") for name in names for prefix in part.adapter_prefixes)


def ema_key(prefix: str, unet_name: str) -> str:
    """The key of a unet weight's EMA copy: the original code removes all dots from the module path."""
    return prefix + f"diffusion_model.{unet_name}".replace(".", "")


def split(tensor: torch.Tensor, shapes: Sequence[Shape], transposed: bool = False) -> list[torch.Tensor]:
    """Split an original tensor into the module tensors of ``shapes``."""
    if transposed:
        tensor = tensor.t()
    parts = tensor.chunk(len(shapes)) if len(shapes) > 1 else (tensor,)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def join(tensors: Sequence[torch.Tensor], shape: Shape, transposed: bool = False) -> torch.Tensor:
    """Join module tensors into the original tensor of ``shape``; the inverse of :func:`split`."""
    whole = tensors[0] if len(tensors) == 1 else torch.cat([tensor for tensor in tensors])
    return (whole.t() if transposed else whole).reshape(shape).contiguous()


def part_shape(shape: Shape, n_parts: int, transposed: bool = False) -> Shape:
    """The shape of each of the ``n_parts`` module tensors in an original tensor of ``shape``."""
    if transposed:
        return shape[::-1]
    even = n_parts > 1 and shape and shape[0] % n_parts == 0
    return (shape[0] // n_parts, *shape[1:]) if even else shape


def strip_prefix(shapes: Mapping[str, Shape], prefix: str) -> dict[str, Shape]:
    """The entries whose names start with ``prefix``, without the prefix."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
