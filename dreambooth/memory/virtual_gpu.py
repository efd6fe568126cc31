"""A GPU without a GPU: operators on virtual tensors give the shapes of their results, whose bytes are counted."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch._meta_registrations  # the operators that C++ has no shapes for
from torch.utils._python_dispatch import TorchDispatchMode

from dreambooth.memory.allocations import Allocations
from dreambooth.memory.replaced import replaced
from dreambooth.memory.virtual_autocast import virtual_autocast
from dreambooth.memory.virtual_cuda import GpuModel, cuda_api, gpu_kernels
from dreambooth.memory.virtual_kernels import declare_cuda_kernels
from dreambooth.memory.virtual_tensor import CPU, DATA, GPU, VirtualStorage, VirtualTensor, to_device

aten = torch.ops.aten
CASTS = "autocast copies"  # category of weights' copies in another dtype
_READS = (aten._local_scalar_dense.default, aten.is_nonzero.default)
# Results on the CPU up to this many elements have values: tables and tokens, not weights and images.
_SMALL = 1 << 16
_TorchGenerator = torch.Generator  # replaced in the block


@dataclass(frozen=True)
class _Result:
    """A new tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class VirtualGpu(TorchDispatchMode):
    """In the block, new tensors on the GPU are virtual, and so is what is computed of them."""

    def __init__(self) -> None:
        super().__init__()
        self.allocations = Allocations()
        self._storages: WeakValueDictionary[int, VirtualStorage] = WeakValueDictionary()  # by address
        self._known: dict[Any, Any] = {}  # new tensors of an operator, by its arguments

    def assign(self, tensors: Sequence[torch.Tensor], category: str) -> None:
        """Count tensors to a category. Those on the CPU are ignored."""
        for tensor in tensors:
            if isinstance(tensor, VirtualTensor) and tensor.is_cuda:
                self.allocations.assign(tensor.storage_shared, category)

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device = CPU) -> torch.Tensor:
        return self._new(torch.empty(shape, dtype=dtype, device="meta"), device, "empty", "")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch.compile's wrapper is around each call."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = _leaves(args, kwargs)
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        device = _device_of(kwargs, tensors)
        is_virtual = any(isinstance(x, VirtualTensor) for x in tensors)
        if device is None or not (is_virtual or device.type == "cuda" or _is_large(args, tensors)):
            return func(*args, **kwargs)
        if func in _READS:
            return _value(tensors[0])
        if _aliases(func):
            return self._wrap(func, leaves, self._run(func, args, kwargs), device)
        key = (func, device, *kwargs, *map(_key, leaves))
        if key not in self._known:
            results = self._run(func, args, kwargs)
            if _are_new(results, leaves):
                self._known[key] = _map(results, lambda x: _Result(x.shape, x.stride(), x.dtype))
            return self._wrap(func, leaves, results, device)
        return self._wrap(func, leaves, _map(self._known[key], _empty, of=_Result), device)

    def _run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The results on the meta device."""
        kwargs = {name: _as_meta(x) for name, x in kwargs.items() if name != "pin_memory"}
        try:
            return func(*map(_as_meta, args), **kwargs)
        except NotImplementedError:  # older torch has no shapes for optimizers' operators
            if not func._schema.returns:
                return None
            if func.name().startswith("aten::_foreach_norm"):
                return [torch.empty((), dtype=x.dtype, device="meta") for x in args[0]]
            raise

    def _wrap(self, func: Any, leaves: list[Any], results: Any, device: torch.device) -> Any:
        """``results``: on the meta device; new ones, or arguments that were changed in place."""
        category = self._category(func, leaves)
        given = {id(x.meta): x for x in leaves if isinstance(x, VirtualTensor)} if _aliases(func) else {}

        def wrap(x: torch.Tensor) -> torch.Tensor:
            return given[id(x)] if id(x) in given else self._new(x, device, func, category)

        return _map(results, wrap)

    def _new(self, meta: torch.Tensor, device: torch.device, operator: object, category: str) -> torch.Tensor:
        address = meta.untyped_storage()._cdata
        storage = self._storages.get(address)
        if storage is None:
            storage = self._storages[address] = VirtualStorage(meta.untyped_storage().nbytes())
            if device.type == "cuda":
                self.allocations.add(storage, category, operator)
        return VirtualTensor(meta, device, storage)

    def _category(self, func: Any, leaves: list[Any]) -> str:
        if func is not aten._to_copy.default or not leaves[0].is_cuda:
            return ""
        of = self.allocations.category_of(leaves[0].storage_shared)
        return CASTS if of in ("weights", "adapters") else ""


@functools.cache
def _aliases(func: Any) -> bool:
    """Whether results may share storage with arguments, or be arguments."""
    return any(argument.alias_info is not None for argument in func._schema.arguments)


class _Generator(_TorchGenerator):
    """Of any device: its numbers go into virtual tensors."""

    def __new__(cls, device: object = CPU) -> _Generator:
        return super().__new__(cls, CPU)  # pyright: ignore[reportCallIssue]


_tensor, _as_tensor = torch.tensor, torch.as_tensor


def _make_tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
    """torch.tensor makes a tensor on its device before operators are dispatched."""
    tensor = _tensor(data, **options)
    return tensor if device is None else tensor.to(device)


def _make_as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> torch.Tensor:
    tensor = data if isinstance(data, torch.Tensor) else _as_tensor(data)
    return tensor.to(device or tensor.device, dtype or tensor.dtype)


@contextlib.contextmanager
def virtual_gpu(gpu: GpuModel) -> Iterator[VirtualGpu]:
    """In the block, torch has a GPU whose tensors are virtual. Only for a process of its own, and for tests."""
    with contextlib.suppress(ImportError):
        import torch._dynamo  # looks for a GPU when it is imported, and must find none
    declare_cuda_kernels()
    device = VirtualGpu()
    with (
        cuda_api(gpu, device.allocations, Counter(), torch.Generator()),
        gpu_kernels(),
        replaced(torch.Tensor, to=to_device, data=DATA),
        replaced(torch, Generator=_Generator, tensor=_make_tensor, as_tensor=_make_as_tensor),
        virtual_autocast(),
        device,
    ):
        yield device


def _leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """All arguments, with the members of lists, and their lengths."""
    leaves = []
    for x in (*args, *kwargs.values()):
        if isinstance(x, list | tuple):
            leaves.append(len(x))
            leaves += x
        else:
            leaves.append(x)
    return leaves


def _map(results: Any, function: Callable[[Any], Any], of: type = torch.Tensor) -> Any:
    """What an operator returns: a tensor, a list of them, or nothing."""
    if isinstance(results, of):
        return function(results)
    if isinstance(results, list | tuple):
        return type(results)([_map(x, function, of) for x in results])
    return results


def _empty(result: _Result) -> torch.Tensor:
    return torch.empty_strided(result.shape, result.stride, dtype=result.dtype, device="meta")


def _device_of(kwargs: Mapping[str, Any], tensors: list[torch.Tensor]) -> torch.device | None:
    """Where the results of an operator are; None on the meta device, which stays as it is."""
    device = kwargs.get("device")
    if device is not None and device.type != "meta":
        return GPU if device.type == "cuda" else CPU
    if device is not None and not any(isinstance(x, VirtualTensor) for x in tensors):
        return None  # otherwise autograd means the device of its virtual tensor
    if not tensors:
        return CPU
    if any(x.is_cuda for x in tensors):
        return GPU
    if any(isinstance(x, VirtualTensor) for x in tensors):
        return CPU  # others on the meta device come from C++, which asks virtual tensors for their device
    return None if any(x.is_meta for x in tensors) else CPU


def _is_large(args: Sequence[Any], tensors: list[torch.Tensor]) -> bool:
    """Whether a new tensor on the CPU gets no values. The first argument of a function that makes one is its size."""
    if tensors or not args or not isinstance(args[0], list | tuple):
        return False
    return math.prod(n for n in args[0] if isinstance(n, int)) > _SMALL


def _as_meta(x: Any) -> Any:
    """An argument of an operator on the meta device."""
    if isinstance(x, VirtualTensor):
        return x.meta
    if isinstance(x, list | tuple):
        return [_as_meta(part) for part in x]
    if isinstance(x, torch.Tensor):
        return x if x.is_meta else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    if isinstance(x, _TorchGenerator):
        return None
    return torch.device("meta") if isinstance(x, torch.device) else x


def _key(x: Any) -> Any:
    """What of an argument determines shapes and dtypes of results."""
    if isinstance(x, torch.Tensor):
        return x.shape, x.stride(), x.dtype
    return None if isinstance(x, _TorchGenerator) else (x.__class__, x)


def _are_new(results: Any, leaves: list[Any]) -> bool:
    """Whether all results are tensors with storages of their own."""
    results = results if isinstance(results, list | tuple) else [results]
    given = {x.meta.untyped_storage()._cdata for x in leaves if isinstance(x, VirtualTensor)}
    return all(isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in given for x in results)


def _value(tensor: torch.Tensor) -> bool | float:
    """What Python reads: conditions are true, numbers are 1."""
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 1
