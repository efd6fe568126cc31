"""The fake GPU: tensors of full size on cuda:0 without values. Their bytes are counted, nothing is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
import torch._dynamo.config  # looks for a GPU when it is imported, and must find none
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreambooth.memory.allocations import Allocations
from dreambooth.memory.virtual_cuda import DEVICE, GpuModel, cuda_api, gpu_kernels
from dreambooth.memory.virtual_kernels import declare_cuda_kernels
from tools.virtual_gpu.device_log import DeviceLog

aten = torch.ops.aten
CASTS = "autocast copies"  # category of weights' copies in another dtype
_ALLOCATE = {
    aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
    aten.detach.default, aten._unsafe_view.default,
}  # fmt: skip
_READS = (aten._local_scalar_dense.default, aten.is_nonzero.default)
_data: Any = torch._C.TensorBase.data


class FakeGpu(TorchDispatchMode):
    """Counts what the operators of a block allocate and launch on the GPU, and where Python waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.allocations, self.log = Allocations(), DeviceLog()

    def assign(self, tensors: Sequence[torch.Tensor], category: str) -> None:
        """Count tensors to a category. Those on the CPU are ignored."""
        for tensor in tensors:
            if tensor.is_cuda:
                self.allocations.assign(tensor.untyped_storage(), category)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _READS and isinstance(args[0], FakeTensor):
            return self._read(args[0])
        result = func(*args, **kwargs)
        results = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.is_cuda]
        if func in (aten._to_copy.default, aten.copy_.default):
            self._note_copy(func, args, kwargs)
        if results and func.namespace == "aten" and not func.is_view and func not in _ALLOCATE:
            self.log.launch(str(func))
        for tensor in results:
            self.allocations.add(tensor.untyped_storage(), self._category(func, args), str(func))
        return result

    def _category(self, func: Any, args: Sequence[Any]) -> str:
        is_cast = func is aten._to_copy.default and args[0].is_cuda
        of_weights = is_cast and self.allocations.category_of(args[0].untyped_storage()) in ("weights", "adapters")
        return CASTS if of_weights else ""

    def _note_copy(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if func is aten._to_copy.default:
            source, device = args[0], kwargs.get("device")
            to_gpu = source.is_cuda if device is None else torch.device(device).type == "cuda"
            is_async = kwargs.get("non_blocking", False)
        else:
            source, to_gpu = args[1], args[0].is_cuda
            is_async = bool(len(args) > 2 and args[2])
        if source.is_cuda != to_gpu:
            self.log.copy(to_gpu, is_async)

    def _read(self, tensor: FakeTensor) -> bool | int | float:
        """A value for Python: what is asked is true, numbers are 1."""
        if tensor.is_cuda:
            self.log.sync()
        if tensor.constant is not None:
            return tensor.constant.item()
        if tensor.dtype == torch.bool:
            return True
        return 1.0 if tensor.dtype.is_floating_point else 1


@contextlib.contextmanager
def fake_gpu(gpu: GpuModel = GpuModel()) -> Iterator[FakeGpu]:  # noqa: B008 (frozen)
    """In the block, all new tensors have no values, and torch has a GPU. Needs :func:`device_guard.load_guard`."""
    declare_cuda_kernels()
    counted = FakeGpu()

    def tolist(tensor: torch.Tensor) -> Any:
        if isinstance(tensor, FakeTensor):
            if tensor.is_cuda:
                counted.log.sync()
            return [1.0] * tensor.numel() if tensor.dim() else 1.0
        return _tolist(tensor)

    _tolist = torch.Tensor.tolist
    with (
        cuda_api(gpu, counted.allocations, counted.log.calls, torch.Generator(DEVICE)),
        gpu_kernels(),
        mock.patch.object(torch.Tensor, "tolist", tolist),
        mock.patch.object(torch.Tensor, "data", property(_data.__get__, _set_data)),
        mock.patch.object(FakeTensorMode, "avoid_device_init", True),
        FakeTensorMode(allow_non_fake_inputs=True),
        counted,
    ):
        yield counted


def _set_data(tensor: torch.Tensor, other: torch.Tensor) -> None:
    """The device may be another one, as for CUDA's tensors."""
    _data.__set__(tensor, other)
    if isinstance(tensor, FakeTensor) and isinstance(other, FakeTensor):
        tensor.fake_device = other.fake_device
