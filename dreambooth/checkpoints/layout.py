"""Which tensors of the modules an original single file's tensor holds, and under which names adapters' files know them.

Mostly one for one. open_clip's fused attention holds three of transformers' tensors one above the other, its text
projection is stored transposed, and what is a 1x1 convolution in the original may be linear in the module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from dreambooth.checkpoints.clip_names import PROJECTION
from dreambooth.checkpoints.ldm_names import TensorRef

Shape = tuple[int, ...]


class NameMap(Protocol):
    """A component's names, without the original's prefix."""

    def to_modules(self, name: str) -> tuple[str, ...]: ...
    def to_original(self, name: str) -> str | None: ...


@dataclass(frozen=True)
class ComponentLayout:
    """One component in the single file."""

    component: str
    prefix: str
    names: NameMap
    adapter_prefixes: tuple[str, ...] = ()  # the first is written, all are read
    adapters_say: tuple[str, ...] = ("modules",)  # whose module names adapters' files use: "modules", "original"


@dataclass(frozen=True)
class TensorSlice:
    """The tensors of the modules that make up one tensor of the original, in order."""

    places: tuple[TensorRef, ...]
    transposed: bool = False


class Layout:
    """Names in the original single file and places in the diffusers folder, for one model's sizes."""

    def __init__(self, parts: Sequence[ComponentLayout], ema_prefix: str):
        self._parts = {part.component: part for part in parts}
        self._ema_prefix = ema_prefix

    def slot(self, key: str) -> TensorSlice | None:
        """What of the modules is in this tensor; None for what they don't carry (schedules, position ids)."""
        for part in self._parts.values():
            if key.startswith(part.prefix):
                name = key.removeprefix(part.prefix)
                places = tuple(TensorRef(part.component, theirs) for theirs in part.names.to_modules(name))
                if places:
                    return TensorSlice(places, transposed=name == PROJECTION)
        return None

    def key(self, place: TensorRef) -> str | None:
        """The original tensor that holds a module's one, None when the original has no such tensor."""
        if place.component == "ema_unet":
            name = self._parts["unet"].names.to_original(place.name)
            return name and ema_key(self._ema_prefix, name)
        part = self._parts[place.component]
        name = part.names.to_original(place.name)
        return name and part.prefix + name

    def key_shape(self, key: str, shapes: Sequence[Shape]) -> Shape:
        """The original's shape of a tensor that holds modules' tensors of ``shapes``."""
        slot = self.slot(key)
        first = shapes[0]
        if slot is not None and slot.transposed:
            return first[::-1]
        if len(shapes) > 1:
            return (sum(shape[0] for shape in shapes), *first[1:])
        vae = self._parts["vae"]  # whose attention is made of 1x1 convolutions in the original
        is_attention = key.startswith(vae.prefix) and ".attn_1." in key and len(first) == 2
        return (*first, 1, 1) if is_attention else first

    def adapter_names(self, place: TensorRef) -> tuple[str, ...]:
        """How files of adapters (LoRA and its kin) may name the module of a weight; the first is what we write."""
        part = self._parts.get(place.component)
        module = place.name.rpartition(".")[0]
        if part is None or not module:
            return ()
        named = {"modules": module, "original": part.names.to_original(module)}
        names = [named[whose] for whose in part.adapters_say if named[whose]]
        return tuple(f"{prefix}_{name}".replace(".", "_") for name in names for prefix in part.adapter_prefixes)


def ema_key(prefix: str, unet_name: str) -> str:
    """The averaged twin's name: the original code drops all dots from the module path."""
    return prefix + f"diffusion_model.{unet_name}".replace(".", "")


def split(tensor: torch.Tensor, shapes: Sequence[Shape], transposed: bool = False) -> list[torch.Tensor]:
    """An original tensor as the modules' tensors that it holds, of ``shapes``."""
    if transposed:
        tensor = tensor.t()
    parts = tensor.chunk(len(shapes)) if len(shapes) > 1 else (tensor,)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def join(tensors: Sequence[torch.Tensor], shape: Shape, transposed: bool = False) -> torch.Tensor:
    """The modules' tensors put together as the original tensor of ``shape``; the inverse of :func:`split`."""
    whole = tensors[0] if len(tensors) == 1 else torch.cat([tensor for tensor in tensors])
    return (whole.t() if transposed else whole).reshape(shape).contiguous()


def part_shape(shape: Shape, n_parts: int, transposed: bool = False) -> Shape:
    """The shape of each of the ``n_parts`` tensors in an original one of ``shape``."""
    if transposed:
        return shape[::-1]
    even = n_parts > 1 and shape and shape[0] % n_parts == 0
    return (shape[0] // n_parts, *shape[1:]) if even else shape


def under(shapes: Mapping[str, Shape], prefix: str) -> dict[str, Shape]:
    """Those of the names that begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
