"""Mapping between the tensors of an original single file, those of the modules, and the module names of adapter files.

It is mostly one to one. Where it is not, a transform (:mod:`dreambooth.models.transforms`) makes one from the other: a
fused attention tensor stacks several tensors of the modules, a 1x1 convolution may be a linear layer in the module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dreambooth.models.adapter_spelling import AdapterSpelling, default_spelling
from dreambooth.models.components import DENOISER, Component
from dreambooth.models.transforms import IDENTITY, RESHAPE, Shape, Transform
from dreambooth.settings.training import DIFFUSERS_SPELLING, KOHYA_SPELLING

Shapes = Mapping[str, Shape]


class TensorRef(NamedTuple):
    """A tensor in a diffusers folder: the component and the name of the tensor in it."""

    component: str
    name: str


class NameMap(Protocol):
    """Translates tensor names of one component, without the prefix of the single file.

    ``transform``: between an original tensor and the module tensors that ``to_modules`` returns.
    """

    def to_modules(self, name: str) -> tuple[str, ...]: ...
    def to_original(self, name: str) -> str | None: ...
    def transform(self, name: str) -> Transform: ...


@dataclass(frozen=True)
class ComponentLayout:
    """One component of the single file. ``adapters``: names of its modules in adapter files; None: the usual ones."""

    component: Component
    names: NameMap
    adapters: AdapterSpelling | None = None

    @property
    def spelling(self) -> AdapterSpelling:
        return default_spelling(self.component) if self.adapters is None else self.adapters


@dataclass(frozen=True)
class TensorSlice:
    """The tensors of the modules that one tensor of the original consists of, in order."""

    refs: tuple[TensorRef, ...]
    transform: Transform = IDENTITY


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
                    return TensorSlice(refs, part.names.transform(name))
        return None

    def original(self, ref: TensorRef) -> tuple[str, TensorSlice] | None:
        """The original tensor that contains a module tensor: its key, and all that it consists of.

        None when the original has no such tensor. An EMA weight is in a tensor of its own.
        """
        key, denoiser = self.key(ref), self._denoiser.component
        is_ema = ref.component == denoiser.ema_name
        regular_key = self.key(TensorRef(denoiser.name, ref.name)) if is_ema else key
        tensor_slice = self.tensor_slice(regular_key) if regular_key else None
        if key is None or tensor_slice is None:
            return None
        refs = tuple(part._replace(component=ref.component) for part in tensor_slice.refs)
        return key, TensorSlice(refs, tensor_slice.transform)

    def key(self, ref: TensorRef) -> str | None:
        """The original tensor that contains a module tensor; None when the original has no such tensor."""
        if ref.component == self._denoiser.component.ema_name:
            name = self._denoiser.names.to_original(ref.name)
            return name and ema_key(self._ema_prefix, name)
        part = self._components[ref.component]
        name = part.names.to_original(ref.name)
        return name and part.component.prefix + name

    def disk_name(self, component: str, name: str) -> str:
        """The name on disk of a parameter or module of a component."""
        return self._components[component].component.disk_name(name)

    def adapter_names(self, ref: TensorRef) -> tuple[str, ...]:
        """Names of a weight's module in adapter files; the first one is written, the others have underscores."""
        part, module = self._components.get(ref.component), _module(ref.name)
        if part is None or not module:
            return ()
        return part.spelling.names(module, self._original_module(ref))

    def spelled_adapter_name(self, ref: TensorRef, spelling: str) -> str:
        """The name of a weight's module in adapter files of this spelling (a choice of ``lora_spelling``); "" if it has
        none there.
        """
        if spelling == DIFFUSERS_SPELLING:
            return f"{ref.component}.{_module(ref.name)}"
        if spelling == KOHYA_SPELLING:
            return self._components[ref.component].spelling.kohya_name(_module(ref.name), self._original_module(ref))
        return self.adapter_names(ref)[0]

    def original_adapter_names(self, ref: TensorRef) -> tuple[str, ...]:
        """Names in adapter files, with underscores, of the original's module that contains a weight with others, or
        with its rows in another order; () where that is the same matrix.
        """
        part, module = self._components.get(ref.component), _module(ref.name)
        if part is None or not module or self._transform(ref) in (IDENTITY, RESHAPE):
            return ()
        original = part.names.to_original(ref.name)
        return part.spelling.original_names(_module(original)) if original else ()

    def _original_module(self, ref: TensorRef) -> str | None:
        """The path in the original code of a weight's module; None when it is not the same matrix there."""
        is_same = self._transform(ref) in (IDENTITY, RESHAPE)
        return self._components[ref.component].names.to_original(_module(ref.name)) if is_same else None

    def _transform(self, ref: TensorRef) -> Transform:
        original = self.original(ref)
        return original[1].transform if original else IDENTITY


def _module(name: str) -> str:
    """The path of the module that a tensor belongs to."""
    return name.rpartition(".")[0]


def ema_key(prefix: str, unet_name: str) -> str:
    """The key of a unet weight's EMA copy: the original code removes all dots from the module path."""
    return prefix + f"diffusion_model.{unet_name}".replace(".", "")


def strip_prefix(shapes: Mapping[str, Shape], prefix: str) -> dict[str, Shape]:
    """The entries whose names start with ``prefix``, without the prefix."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
