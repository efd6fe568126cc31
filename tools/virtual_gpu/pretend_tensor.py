"""Tensors that say they are on cuda:0 and have their values on the CPU, and CUDA's rules for what may meet them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dreambooth.memory.allocations import Allocations
from tools.virtual_gpu.device_log import DeviceLog, caller
from tools.virtual_gpu.streams import DEVICE, HOST, Stream, StreamRules, current_stream

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
# They read sizes and strides alone.
_WITHOUT_VALUES = {
    aten._fused_sdp_choice.default, aten.empty_like.default, aten.new_empty.default, aten.zeros_like.default,
    aten.ones_like.default, aten.full_like.default, aten.set_.source_Storage, aten._unsafe_view.default,
    aten.detach.default,
}  # fmt: skip
_MASKS = (torch.bool, torch.uint8)


class PretendTensor(torch.Tensor):
    """``cpu_tensor``: the values, with the same sizes and strides. ``is_moved``: its ``data`` was set to a tensor of
    the CPU, and the operators take it for one.
    """

    cpu_tensor: torch.Tensor
    is_moved = False
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
    def device(self) -> torch.device:
        return CPU if self.is_moved else DEVICE

    @property
    def is_cuda(self) -> bool:
        return not self.is_moved

    @property
    def is_cpu(self) -> bool:
        return self.is_moved

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
        self.allocations, self.log, self.rules = allocations, log, StreamRules()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        args = [_map(_unless_moved, value) for value in args]
        kwargs = {key: _map(_unless_moved, value) for key, value in kwargs.items()}
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
            self._note_use(func, tensors, HOST)
            return func(*args, **kwargs)
        if ours:
            _require_one_device(func, args, tensors)
            self._note_syncs(func, args)
        generators = [x for x in leaves if isinstance(x, torch.Generator)]
        _require_generators(func, generators, "cuda" if on_gpu else "cpu")
        self._note_use(func, [_values(x) for x in tensors], current_stream())
        result = _on_cpu(func, args, kwargs, generators if on_gpu else [])
        if not on_gpu or func in _READS:
            current_stream().synchronize()
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
                # A wrapper can't be lazily conjugated or negated, as its values may be (of complex numbers).
                return self._new(result.resolve_conj().resolve_neg())
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
        self._note_copy(values, copied, is_async=non_blocking or was_on_gpu == on_gpu, is_new=True, to_gpu=on_gpu)
        return PretendTensor(copied, self) if on_gpu else copied

    def _copy_(self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        to_gpu, from_gpu = isinstance(target, PretendTensor), isinstance(source, PretendTensor)
        if to_gpu != from_gpu:
            self.log.copy(to_device=to_gpu, is_async=non_blocking)
        elif to_gpu:
            self.log.launch("aten.copy_.default")
        if to_gpu or from_gpu:
            is_async = non_blocking or to_gpu == from_gpu
            self._note_copy(_values(source), _values(target), is_async=is_async, is_new=False, to_gpu=to_gpu)
        else:
            self._note_use(aten.copy_.default, [target, source], HOST)
        aten.copy_.default(_values(target), _values(source))
        return target

    # -- streams ----------------------------------------------------------------------------------------------

    def _new(self, values: torch.Tensor) -> PretendTensor:
        tensor = PretendTensor(values, self)
        if self.rules.is_on:
            self.rules.allocate(current_stream(), values)
        return tensor

    def _note_use(self, func: Any, tensors: Sequence[torch.Tensor], stream: Stream) -> None:
        if not self.rules.is_on or func.is_view or func in _WITHOUT_VALUES:
            return
        writes = []
        if func._schema.is_mutable:
            writes = tensors if "_foreach_" in str(func) or "_fused_" in str(func) else tensors[:1]
        self.rules.use(str(func), stream, tensors, writes)

    def _note_copy(
        self, source: torch.Tensor, target: torch.Tensor, *, is_async: bool, is_new: bool, to_gpu: bool
    ) -> None:
        if not self.rules.is_on:
            return
        stream = current_stream()
        if is_new and to_gpu:
            self.rules.allocate(stream, target)
        self.rules.use("a copy", stream, [source], [target], on_device=to_gpu)
        if not is_async:
            stream.synchronize()

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


def _unless_moved(x: Any) -> Any:
    """The tensor of the CPU that a moved one stands for."""
    return x.cpu_tensor if isinstance(x, PretendTensor) and x.is_moved else x


def _values(x: torch.Tensor) -> torch.Tensor:
    return x.cpu_tensor if isinstance(x, PretendTensor) else x


def _leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """An operator's arguments, with the elements of those that are lists."""
    values = [*args, *kwargs.values()]
    return [leaf for value in values for leaf in (value if isinstance(value, (list, tuple)) else (value,))]


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """``function`` of an argument or result, or of each element of a list."""
    return type(value)(map(function, value)) if isinstance(value, (list, tuple)) else function(value)


# -- tensor.data ---------------------------------------------------------------------------------------------------

_data: Any = torch._C.TensorBase.data


def _get_data(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach() if isinstance(tensor, PretendTensor) else _data.__get__(tensor)


def _set_data(tensor: Any, other: torch.Tensor) -> None:
    """As for CUDA's tensors, the device may be another one. A tensor stays the same object."""
    is_moved = not isinstance(other, PretendTensor) or other.is_moved
    if isinstance(tensor, PretendTensor):
        if not is_moved:
            _data.__set__(tensor, other)
        tensor.cpu_tensor, tensor.is_moved = _values(other), is_moved
    elif is_moved:
        _data.__set__(tensor, _unless_moved(other))
    else:
        hooks = [*(tensor._post_accumulate_grad_hooks or {}).values()]
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        torch.utils.swap_tensors(tensor, torch.nn.Parameter(other, tensor.requires_grad) if is_parameter else other)
        tensor._post_accumulate_grad_hooks = None  # which the swap does not register
        for hook in hooks:
            tensor.register_post_accumulate_grad_hook(hook)


DATA = property(_get_data, _set_data)  # for torch.Tensor
