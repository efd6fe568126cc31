"""A CUDA graph without a GPU: the operators of a capture are recorded and computed again, with the same memory.

As with a graph, what Python does besides is not repeated, inputs are read where they were, and results are written
where they were. So a replay is wrong if a step depends on anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class ReplayedGraph:
    """In place of :class:`dreambooth.training.cuda_graphs.CudaGraph`."""

    replays = 0

    def __init__(self, device: torch.device, pool: Any) -> None:
        self._recorder = _Recorder(device)

    @staticmethod
    def new_pool() -> object:
        return object()

    def capture(self, function: Callable[[], Any]) -> Any:
        with self._recorder:
            result = function()
        self._recorder.undo()
        return result

    @torch.no_grad()
    def replay(self) -> None:
        type(self).replays += 1
        for func, args, kwargs, results in self._recorder.operators:
            inputs = {_storage(tensor) for tensor in _tensors((args, kwargs))}
            for result, again in zip(results, _tensors(func(*args, **kwargs)), strict=True):
                if _storage(result) not in inputs:
                    result.copy_(again)


class _Recorder(TorchDispatchMode):
    """Raises where a capture would: for copies between devices, and for values that Python reads."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self.operators: list[tuple[Any, Sequence[Any], dict[str, Any], list[torch.Tensor]]] = []
        self._own: set[int] = set()  # memory that is allocated in the capture
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []  # other memory that is written, and its values

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise RuntimeError("operation not permitted when stream is capturing")
        inputs = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        self._keep_written(func, args, kwargs)
        result = func(*args, **kwargs)
        results = _tensors(result)
        for tensor in results:
            if tensor.device.type != self._device.type and tensor.ndim and tensor.numel():
                raise RuntimeError(f"{func} on {tensor.device} when stream is capturing")
        self._own |= {_storage(tensor) for tensor in results} - inputs
        self.operators.append((func, args, kwargs, results))
        return result

    def undo(self) -> None:
        """A capture computes nothing: memory that was there before has its former values."""
        with torch.no_grad():
            for tensor, values in reversed(self._before):
                tensor.copy_(values)
        self._before.clear()

    def _keep_written(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        schema = func._schema.arguments
        values = dict(zip((argument.name for argument in schema), args)) | kwargs  # noqa: B905 (defaults are missing)
        for argument in schema:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in _tensors(values.get(argument.name)):
                    if _storage(tensor) not in self._own:
                        self._before.append((tensor, tensor.clone()))


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    values: torch.Tensor = getattr(tensor, "cpu_tensor", tensor)  # of a pretend GPU
    return values.untyped_storage().data_ptr()
