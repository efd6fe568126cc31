"""Kinds of adapters: their tensors as files name them, and the weight delta they define for a W (out, in[, k, k]).

Every kind computes a delta of W from a few small tensors; the strength at which a LoRA is applied scales that delta.
A kind may also have a ``dora_scale`` (DoRA, arXiv:2402.09353), which rescales W + delta to these norms along one axis.
Training and merging use the same code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from dreambooth.checkpoints.adapters.dora import Shape, decompose, is_magnitude

StateDict = Mapping[str, torch.Tensor]

COMMON = ("alpha", "scale", "dora_scale")  # tensors that any kind may have


class Adapter(ABC):
    """The adapter of one module. ``tensors`` has its tensors by their names in files, without alpha and scale.

    The delta is scaled by ``scale``, else by ``alpha`` / rank, else (alpha None) by 1, as in A1111: an alpha of 0
    disables the adapter.
    """

    kind: ClassVar[str]
    required: ClassVar[tuple[tuple[str, ...], ...]]  # sets of tensor names, one of which must be there
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tensors: StateDict, alpha: float | None = None, scale: float | None = None):
        self.tensors = dict(tensors)
        self.alpha, self.scale = alpha, scale
        self.dora_scale = self.tensors.pop("dora_scale", None)

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """The divisor of alpha; None for kinds without a rank."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int] | None:
        """Rows and columns (kernels flattened) of the delta; None when the shapes of the tensors don't match."""

    @abstractmethod
    def unscaled_delta(self, weight: torch.Tensor) -> torch.Tensor:
        """The delta before scaling and DoRA, with as many elements as ``weight``, in any shape."""

    @property
    def scaling(self) -> float:
        """The factor of the unscaled delta: ``scale``, alpha / rank, or 1."""
        if self.scale is not None:
            return self.scale
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    @property
    def needs_weight(self) -> bool:
        """Whether the delta depends on the values of the weight, not only on its shape."""
        return self.dora_scale is not None

    @property
    def changes_nothing(self) -> bool:
        """Whether the delta is zero: the scaling is, or one of the matrices whose product it is (as initialized)."""
        factors = [tensor for name, tensor in self.tensors.items() if name != "on_input"]
        return self.dora_scale is None and (self.scaling == 0 or not all(bool(factor.any()) for factor in factors))

    def fits(self, shape: Shape) -> bool:
        """Whether it matches a weight of ``shape``, linear or convolution."""
        matches = len(shape) > 1 and self.size == (shape[0], math.prod(shape[1:]))
        return matches and (self.dora_scale is None or is_magnitude(self.dora_scale, shape))

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """W' - W at strength 1, in the shape of the weight (float32)."""
        delta = self.unscaled_delta(weight).reshape(weight.shape) * self.scaling
        if self.dora_scale is None:
            return delta
        return decompose(weight + delta, self.dora_scale) - weight

    def apply(self, weight: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        """W + strength * (W' - W) as a new tensor, float32."""
        weight = weight.float()
        return weight + strength * self.delta(weight)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All of its tensors in a file. alpha and scale are float32 scalars: half precision would round large ones."""
        scalars = {"alpha": self.alpha, "scale": self.scale}
        tensors = {name: torch.tensor(float(value)) for name, value in scalars.items() if value is not None}
        if self.dora_scale is not None:
            tensors["dora_scale"] = self.dora_scale
        return tensors | self.tensors

    def _tensor(self, name: str) -> torch.Tensor | None:
        tensor = self.tensors.get(name)
        return None if tensor is None else tensor.float()

    def _low_rank(self, a: str, b: str, core: str) -> torch.Tensor:
        return _low_rank(self.tensors[a].float(), self.tensors[b].float(), self._tensor(core))


class Lora(Adapter):
    """LoRA (arXiv:2106.09685): up @ down. ``lora_down`` (r, in[, k, k]), ``lora_up`` (out, r[, 1, 1]).

    In LoCon ``lora_down`` of a convolution is k x k. With ``lora_mid`` (r, r, k, k) between the two (Tucker
    decomposition) both are 1 x 1.
    """

    kind = "LoRA"
    required = (("lora_down.weight", "lora_up.weight"),)
    optional = ("lora_mid.weight",)

    @property
    def rank(self) -> int:
        return self.tensors["lora_down.weight"].shape[0]

    @property
    def size(self) -> tuple[int, int] | None:
        down, up = self.tensors["lora_down.weight"], self.tensors["lora_up.weight"]
        mid = self.tensors.get("lora_mid.weight")
        if mid is None or up.dim() < 2 or down.dim() < 2:
            return _low_rank_size(up, down, None)
        return _low_rank_size(up.flatten(1).T, down.flatten(1), mid)

    def unscaled_delta(self, weight: torch.Tensor) -> torch.Tensor:
        down, up = self.tensors["lora_down.weight"].float(), self.tensors["lora_up.weight"].float()
        mid = self._tensor("lora_mid.weight")
        if mid is None:
            return up.flatten(1) @ down.flatten(1)
        return _low_rank(up.flatten(1).T, down.flatten(1), mid)


class LoHa(Adapter):
    """LoHa (arXiv:2108.06098): the elementwise product of two low-rank matrices, (w1_a @ w1_b) * (w2_a @ w2_b).

    ``w?_a`` (out, r), ``w?_b`` (r, in[*k*k]); with ``hada_t?`` (r, r, k, k) ``w?_a`` (r, out), ``w?_b`` (r, in).
    """

    kind = "LoHa"
    required = (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),)
    optional = ("hada_t1", "hada_t2")

    @property
    def rank(self) -> int:
        return self.tensors["hada_w1_b"].shape[0]

    @property
    def size(self) -> tuple[int, int] | None:
        first, second = (_low_rank_size(*(self.tensors.get(f"hada_{x}") for x in half)) for half in _HADA_HALVES)
        return first if first == second else None

    def unscaled_delta(self, weight: torch.Tensor) -> torch.Tensor:
        first, second = (self._low_rank(*(f"hada_{x}" for x in half)) for half in _HADA_HALVES)
        return first.flatten(1) * second.flatten(1)


class LoKr(Adapter):
    """LoKr (arXiv:2309.14859): the Kronecker product of a small and a larger matrix, each full or of low rank.

    ``lokr_w1`` (a, c) or ``w1_a`` @ ``w1_b``; ``lokr_w2`` (b, d[, k, k]) or ``w2_a`` @ ``w2_b`` (b, r), (r, d[*k*k]),
    with ``lokr_t2`` (r, r, k, k) ``w2_a`` (r, b), ``w2_b`` (r, d); out = a * b, in = c * d.
    """

    kind = "LoKr"
    required = tuple(
        (*first, *second)
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    )
    optional = ("lokr_t2",)

    @property
    def rank(self) -> int | None:
        """The rank of the factorized half; None when both are full matrices, and then alpha has no effect."""
        pair = self.tensors.get("lokr_w2_b", self.tensors.get("lokr_w1_b"))
        return None if pair is None else pair.shape[0]

    @property
    def size(self) -> tuple[int, int] | None:
        first, second = self._half_size("1"), self._half_size("2")
        return (first[0] * second[0], first[1] * second[1]) if first and second else None

    def unscaled_delta(self, weight: torch.Tensor) -> torch.Tensor:
        # With flattened kernels: the columns of w2 are (d, k, k), those of the product (c, d, k, k).
        return torch.kron(self._half("1"), self._half("2"))

    def _half(self, which: str) -> torch.Tensor:
        full = self._tensor(f"lokr_w{which}")
        if full is None:
            full = self._low_rank(f"lokr_w{which}_a", f"lokr_w{which}_b", f"lokr_t{which}")
        return full.flatten(1).contiguous()

    def _half_size(self, which: str) -> tuple[int, int] | None:
        full = self.tensors.get(f"lokr_w{which}")
        if full is not None:
            return (full.shape[0], math.prod(full.shape[1:])) if full.dim() > 1 else None
        return _low_rank_size(*(self.tensors.get(f"lokr_{x}") for x in (f"w{which}_a", f"w{which}_b", f"t{which}")))


class Difference(Adapter):
    """The full delta: ``diff`` for any module, ``w_norm`` for a normalization layer. Also used for biases."""

    kind = "full difference"
    required = (("diff",), ("w_norm",))

    @property
    def rank(self) -> None:
        return None

    @property
    def _values(self) -> torch.Tensor:
        return next(iter(self.tensors.values()))

    @property
    def size(self) -> tuple[int, int]:
        return self._values.shape[0], self._values[0].numel()

    def fits(self, shape: Shape) -> bool:
        return self.dora_scale is None and self._values.numel() == math.prod(shape)

    def unscaled_delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self._values.float()


class IA3(Adapter):
    """IA3 (arXiv:2205.05638): rows, or with ``on_input`` columns, of W scaled by 1 + ``weight``."""

    kind = "IA3"
    required = (("weight", "on_input"),)

    @property
    def rank(self) -> None:
        return None

    @property
    def size(self) -> None:
        return None

    @property
    def needs_weight(self) -> bool:
        return True

    @property
    def _axis(self) -> int:
        return 1 if self.tensors["on_input"].item() else 0

    def fits(self, shape: Shape) -> bool:
        matches = len(shape) > self._axis and self.tensors["weight"].numel() == shape[self._axis]
        return matches and self.dora_scale is None

    def unscaled_delta(self, weight: torch.Tensor) -> torch.Tensor:
        sizes = [1] * weight.dim()
        sizes[self._axis] = -1
        return weight * self.tensors["weight"].float().reshape(sizes)


ADAPTER_KINDS: tuple[type[Adapter], ...] = (Lora, LoHa, LoKr, Difference, IA3)
_HADA_HALVES = (("w1_a", "w1_b", "t1"), ("w2_a", "w2_b", "t2"))


def make_adapter(tensors: StateDict) -> Adapter | None:
    """The adapter with these tensors of one module; None when no kind has exactly these names."""
    own = {name: tensor for name, tensor in tensors.items() if name not in ("alpha", "scale")}
    for kind in ADAPTER_KINDS:
        for required in kind.required:
            if set(required) <= own.keys() <= {*required, *kind.optional, "dora_scale"}:
                return kind(own, _number(tensors.get("alpha")), _number(tensors.get("scale")))
    return None


def factorization(dimension: int, factor: int = 0) -> tuple[int, int]:
    """Factorize ``dimension`` into (small, large) as LyCORIS does for LoKr.

    A ``factor`` that divides it is one of the two. Otherwise small is its largest divisor up to ``factor``, and with
    factor 0 its largest divisor up to the square root.
    """
    if factor > 0 and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    limit = min(factor, math.isqrt(dimension)) if factor > 0 else math.isqrt(dimension)
    small = next(n for n in range(limit, 0, -1) if dimension % n == 0)
    return small, dimension // small


def _low_rank(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None) -> torch.Tensor:
    """a @ b over a flattened kernel, or with a ``core`` (r, r, k, k) the Tucker product."""
    if core is None:
        return a.flatten(1) @ b.flatten(1)
    return torch.einsum("ijkl,jr,ip->prkl", core, b, a)


def _low_rank_size(a: torch.Tensor | None, b: torch.Tensor | None, core: torch.Tensor | None) -> tuple[int, int] | None:
    """(rows, columns) of the product of :func:`_low_rank`; None when the shapes of its factors don't match."""
    if a is None or b is None or a.dim() < 2 or b.dim() < 2:
        return None
    if core is None:
        return (a.shape[0], math.prod(b.shape[1:])) if math.prod(a.shape[1:]) == b.shape[0] else None
    if core.dim() != 4 or (a.shape[0], b.shape[0]) != tuple(core.shape[:2]):
        return None
    return a.shape[1], math.prod(b.shape[1:]) * math.prod(core.shape[2:])


def _number(value: torch.Tensor | None) -> float | None:
    return None if value is None else value.float().flatten()[0].item()
