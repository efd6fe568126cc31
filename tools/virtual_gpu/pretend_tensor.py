"""Tensors that say they are on cuda:0 and have their values on the CPU, and CUDA's rules for what may meet them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dreambooth.memory.allocations import Allocations
from dreambooth.memory.virtual_cuda import DEVICE
from tools.virtual_gpu.device_log import DeviceLog, caller

CPU = torch.device("cpu")
aten = torch.ops.aten
_READS = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default}
# The size of their results depends on values: Python waits for them.
_OF_UNKNOWN_SIZE = {
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default,
    aten.bincount.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
_INDEXING = {
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default, aten._unsafe_index_put.default,
}  # fmt: skip
# Besides pointwise operators, these take a scalar of the CPU.
_WITH_SCALAR = {aten.fill.Tensor, aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
_MASKS = (torch.bool, torch.uint8)


class PretendTensor(torch.Tensor):
    """``cpu_tensor``: the values, with the same sizes and strides."""

    cpu_tensor: torch.Tensor
    device_state: PretendDevice

    @staticmethod
    def __new__(cls, cpu_tensor: torch.Tensor, device_state: PretendDevice) -> PretendTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, cpu_tensor.size(), strides=cpu_tensor.stride(), storage_offset=cpu_tensor.storage_offset(),
            dtype=cpu_tensor.dtype, layout=cpu_tensor.layout, device=DEVICE,
        )  # fmt: skip
        tensor.cpu_tensor, tensor.device_state = cpu_tensor, device_state
        device_state.allocations.add(cpu_tensor.untyped_storage())
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        device = next(x.device_state for x in _leaves(args, kwargs or {}) if isinstance(x, PretendTensor))
        return device.dispatch(func, args, kwargs or {})

    # A module's ``to`` swaps its parameters in place for a subclass that has these.
    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["cpu_tensor"], self.device_state

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], device: Any, size: Any, stride: Any) -> PretendTensor:
        return PretendTensor(inner["cpu_tensor"], device)

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        if not isinstance(other, PretendTensor):
            raise RuntimeError("Attempted to set the data of a tensor on cuda:0 to a tensor on cpu.")
        torch._C.TensorBase.data.__set__(self, other)  # pyright: ignore[reportAttributeAccessIssue]
        self.cpu_tensor = other.cpu_tensor

    def tolist(self) -> Any:
        self.device_state.log.sync()
        return self.cpu_tensor.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                "first."
            )
        return self.cpu().numpy()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"PretendTensor({self.cpu_tensor!r})"


class PretendDevice(TorchDispatchMode):
    """Dispatches the operators of a block: those on the GPU compute with the values of the CPU.

    RuntimeError, in CUDA's words, for what CUDA refuses.
    """

    def __init__(self, allocations: Allocations, log: DeviceLog) -> None:
        super().__init__()
        self.allocations, self.log = allocations, log

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if func is aten._to_copy.default:
            return self._to_copy(*args, **kwargs)
        if func is aten.copy_.default:
            return self._copy_(*args, **kwargs)
        leaves = _leaves(args, kwargs)
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        ours = [x for x in tensors if isinstance(x, PretendTensor)]
        device = kwargs.get("device")
        on_gpu = bool(ours) if device is None else torch.device(device).type == "cuda"
        if not ours and not on_gpu:
            return func(*args, **kwargs)
        if ours:
            _require_one_device(func, args, tensors)
            self._note_syncs(func, args)
        generators = [x for x in leaves if isinstance(x, torch.Generator)]
        _require_generators(func, generators, "cuda" if on_gpu else "cpu")
        result = _on_cpu(func, args, kwargs, generators if on_gpu else [])
        if not on_gpu or func in _READS:
            return result
        if not func.is_view:
            self.log.launch(str(func))
        return _map(self._wrapper_of({id(x.cpu_tensor): x for x in ours}), result)

    def _wrapper_of(self, arguments: Mapping[int, PretendTensor]) -> Callable[[Any], Any]:
        """Wraps results. What an operator has written in place is the argument itself."""

        def wrap(result: Any) -> Any:
            if not isinstance(result, torch.Tensor):
                return result
            written = arguments.get(id(result))
            if written is None:
                return PretendTensor(result, self)
            if (written.shape, written.stride()) != (result.shape, result.stride()):
                raise NotImplementedError("an operator that changes the shape of its argument in place")
            return written

        return wrap

    # -- copies and reads -------------------------------------------------------------------------------------

    def _to_copy(
        self, source: torch.Tensor, *, device: Any = None, non_blocking: bool = False, pin_memory: Any = None,
        **options: Any,
    ) -> torch.Tensor:  # fmt: skip
        was_on_gpu = isinstance(source, PretendTensor)
        on_gpu = was_on_gpu if device is None else torch.device(device).type == "cuda"
        values = source.cpu_tensor if was_on_gpu else source
        if not was_on_gpu and not on_gpu:
            return aten._to_copy.default(source, device=device, **options)
        if was_on_gpu != on_gpu:
            self.log.copy(to_device=on_gpu, is_async=non_blocking)
        else:
            self.log.launch("aten._to_copy.default")
        copied = aten._to_copy.default(values, **options)
        return PretendTensor(copied, self) if on_gpu else copied

    def _copy_(self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        to_gpu, from_gpu = isinstance(target, PretendTensor), isinstance(source, PretendTensor)
        if to_gpu != from_gpu:
            self.log.copy(to_device=to_gpu, is_async=non_blocking)
        elif to_gpu:
            self.log.launch("aten.copy_.default")
        aten.copy_.default(_values(target), _values(source))
        return target

    def _note_syncs(self, func: Any, args: Sequence[Any]) -> None:
        indices = args[1] if func in _INDEXING else ()
        masks = [index for index in indices if isinstance(index, torch.Tensor) and index.dtype in _MASKS]
        if func in _READS or func in _OF_UNKNOWN_SIZE or masks:
            self.log.sync()


# -- what may meet -------------------------------------------------------------------------------------------------


def _require_one_device(func: Any, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
    if func in _INDEXING and isinstance(args[0], PretendTensor):
        tensors = [x for x in args[2:3] if isinstance(x, torch.Tensor)]  # the indices may be on the CPU
    others = [x for x in tensors if not isinstance(x, PretendTensor)]
    takes_scalar = torch.Tag.pointwise in func.tags or func in _WITH_SCALAR or func in _INDEXING
    if takes_scalar:
        others = [x for x in others if x.dim()]
    if others:
        shapes = ", ".join(str(tuple(x.shape)) for x in others)
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({func} with tensors of the CPU of shape {shapes}, {caller()})"
        )


def _require_generators(func: Any, generators: Sequence[torch.Generator], kind: str) -> None:
    for generator in generators:
        if generator.device.type != kind:
            raise RuntimeError(
                f"Expected a '{kind}' device type for generator but found '{generator.device.type}' "
                f"({func}, {caller()})"
            )


# -- computing -----------------------------------------------------------------------------------------------------


def _on_cpu(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], generators: Sequence[torch.Generator]) -> Any:
    """The operator's result on the CPU. A generator of the GPU is advanced as one of the CPU with the same state."""
    substitutes = {generator: torch.Generator().set_state(generator.get_state()) for generator in generators}

    def substitute(x: Any) -> Any:
        if isinstance(x, PretendTensor):
            return x.cpu_tensor
        return substitutes[x] if isinstance(x, torch.Generator) and substitutes else x

    options = {key: _map(substitute, value) for key, value in kwargs.items() if key != "pin_memory"}
    if options.get("device") is not None:
        options["device"] = CPU
    result = func(*[_map(substitute, value) for value in args], **options)
    for generator, substituted in substitutes.items():
        generator.set_state(substituted.get_state())
    return result


def _values(x: torch.Tensor) -> torch.Tensor:
    return x.cpu_tensor if isinstance(x, PretendTensor) else x


def _leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """An operator's arguments, with the elements of those that are lists."""
    values = [*args, *kwargs.values()]
    return [leaf for value in values for leaf in (value if isinstance(value, (list, tuple)) else (value,))]


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """``function`` of an argument or result, or of each element of a list."""
    return type(value)(map(function, value)) if isinstance(value, (list, tuple)) else function(value)
