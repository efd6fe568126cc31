"""Invertible transforms between a tensor of an original single file and the module tensors that it consists of.

Values are only moved, never computed: ``join(split(x)) == x`` bit for bit, for every dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Shape = tuple[int, ...]

_SEPARATOR = "|"  # of the names of a chain's transforms


@dataclass(frozen=True)
class Transform:
    """One module tensor that is equal to the original; subclasses are the other transforms.

    ``shapes`` are always those of the module tensors. ValueError when a tensor or shape is none that the transform can
    have, such as an odd number of rows for halves.
    """

    @property
    def name(self) -> str:
        """From which :func:`transform_named` makes it again; manifests store it."""
        return ""

    @property
    def n_parts(self) -> int:
        """The number of module tensors."""
        return 1

    def split(self, tensor: torch.Tensor, shapes: Sequence[Shape]) -> list[torch.Tensor]:
        """The module tensors in an original tensor."""
        return [part.reshape(shape) for part, shape in zip(self._split(tensor), shapes, strict=True)]

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The original tensor, contiguous."""
        if len(parts) != self.n_parts:
            raise ValueError(f"{len(parts)} tensors for {self.n_parts} parts")
        return self._join(parts).reshape(self.original_shape([tuple(part.shape) for part in parts])).contiguous()

    def original_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of the original tensor."""
        return shapes[0]

    def part_shapes(self, shape: Shape) -> list[Shape]:
        """The shapes of the module tensors in an original tensor of ``shape``."""
        return [shape]

    def _split(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        return [tensor]

    def _join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return parts[0]


@dataclass(frozen=True)
class Transpose(Transform):
    """A matrix that the original stores transposed."""

    @property
    def name(self) -> str:
        return "transpose"

    def original_shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0][::-1]

    def part_shapes(self, shape: Shape) -> list[Shape]:
        return [shape[::-1]]

    def _split(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        return [tensor.t()]

    def _join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return parts[0].t()


@dataclass(frozen=True)
class Reshape(Transform):
    """A 1x1 convolution of the original, (out, in, 1, 1), that is a linear layer in the module, (out, in)."""

    @property
    def name(self) -> str:
        return "reshape"

    def original_shape(self, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:2], 1, 1)

    def part_shapes(self, shape: Shape) -> list[Shape]:
        if any(side != 1 for side in shape[2:]):
            raise ValueError(f"{shape} is no 1x1 convolution")
        return [shape[:2]]


@dataclass(frozen=True)
class Swap(Transform):
    """Two halves of the rows that the original has in the other order, as FLUX's scale and shift of its last norm."""

    @property
    def name(self) -> str:
        return "swap"

    def part_shapes(self, shape: Shape) -> list[Shape]:
        _require_multiple(shape, 2)
        return [shape]

    def _split(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        _require_multiple(tuple(tensor.shape), 2)
        return [torch.cat(tensor.chunk(2)[::-1])]

    def _join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._split(parts[0])[0]


@dataclass(frozen=True)
class _Stack(Transform):
    """Several module tensors, stacked along the rows."""

    def original_shape(self, shapes: Sequence[Shape]) -> Shape:
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(parts))


@dataclass(frozen=True)
class Chunk(_Stack):
    """``n`` module tensors of equal size, stacked along the rows: a fused query, key and value."""

    n: int

    @property
    def name(self) -> str:
        return "chunk"

    @property
    def n_parts(self) -> int:
        return self.n

    def part_shapes(self, shape: Shape) -> list[Shape]:
        _require_multiple(shape, self.n)
        return [(shape[0] // self.n, *shape[1:])] * self.n

    def _split(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        _require_multiple(tuple(tensor.shape), self.n)
        return tensor.chunk(self.n)


@dataclass(frozen=True)
class Concat(_Stack):
    """Module tensors of these numbers of rows, stacked: query, key, value and MLP input of FLUX's single blocks."""

    sizes: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"concat:{','.join(map(str, self.sizes))}"

    @property
    def n_parts(self) -> int:
        return len(self.sizes)

    def part_shapes(self, shape: Shape) -> list[Shape]:
        if not shape or shape[0] != sum(self.sizes):
            raise ValueError(f"{shape} has not the {sum(self.sizes)} rows of {self.name}")
        return [(size, *shape[1:]) for size in self.sizes]

    def _split(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        self.part_shapes(tuple(tensor.shape))
        return tensor.split(list(self.sizes))


@dataclass(frozen=True)
class Chain(Transform):
    """Transforms one after the other, from the original to the modules; only the last may have several parts."""

    transforms: tuple[Transform, ...]

    def __post_init__(self) -> None:
        if not self.transforms or any(transform.n_parts != 1 for transform in self.transforms[:-1]):
            raise ValueError("only the last transform of a chain may have several parts")

    @property
    def name(self) -> str:
        return _SEPARATOR.join(transform.name for transform in self.transforms)

    @property
    def n_parts(self) -> int:
        return self.transforms[-1].n_parts

    def original_shape(self, shapes: Sequence[Shape]) -> Shape:
        for transform in reversed(self.transforms):
            shapes = [transform.original_shape(shapes)]
        return shapes[0]

    def part_shapes(self, shape: Shape) -> list[Shape]:
        shapes = [shape]
        for transform in self.transforms:
            shapes = transform.part_shapes(shapes[0])
        return shapes

    def _split(self, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        parts: Sequence[torch.Tensor] = [tensor]
        for transform in self.transforms:
            parts = transform.split(parts[0], transform.part_shapes(tuple(parts[0].shape)))
        return parts

    def _join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        for transform in reversed(self.transforms):
            parts = [transform.join(parts)]
        return parts[0]


IDENTITY = Transform()
TRANSPOSE = Transpose()
RESHAPE = Reshape()
SWAP = Swap()


def transform_named(name: str, n_parts: int = 1) -> Transform:
    """The transform with this :attr:`Transform.name` and number of parts. ValueError for an unknown one."""
    names = name.split(_SEPARATOR)
    if len(names) > 1:
        return Chain((*(transform_named(one) for one in names[:-1]), transform_named(names[-1], n_parts)))
    kind, _, sizes = name.partition(":")
    simple = {transform.name: transform for transform in (IDENTITY, TRANSPOSE, RESHAPE, SWAP)}
    transform = simple.get(name) or (
        Chunk(n_parts) if name == "chunk" else Concat(tuple(map(int, sizes.split(",")))) if kind == "concat" else None
    )
    if transform is None or transform.n_parts != n_parts:
        raise ValueError(f"there is no transform {name!r} with {n_parts} parts")
    return transform


def _require_multiple(shape: Shape, n: int) -> None:
    if not shape or shape[0] % n:
        raise ValueError(f"{shape} can't be split into {n} equal parts")
