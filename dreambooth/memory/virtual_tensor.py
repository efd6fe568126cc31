"""Tensors of full size without values: they say that they are on a GPU or on the CPU, and take no memory.

To autograd they are on the meta device, so that a backward pass needs neither a GPU nor its threads; to autocast, and
to all Python code, they are on the device they name.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)

_CURRENT = ("cuda", torch.device("cuda"))
_data: Any = torch.Tensor.data
_to = torch.Tensor.to
_parse_to: Any = getattr(torch._C, "_nn")._parse_to  # noqa: B009 (unknown to type checkers)


class VirtualStorage:
    """The memory that a tensor and its views share, as long as one of them exists."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes

    @property
    def _cdata(self) -> int:
        return id(self)

    def nbytes(self) -> int:
        return self._n_bytes


class VirtualTensor(torch.Tensor):
    """``meta``: a tensor on the meta device with the same storage, size and strides."""

    meta: torch.Tensor
    virtual_device: torch.device
    storage_shared: VirtualStorage

    @staticmethod
    def __new__(cls, meta: torch.Tensor, device: torch.device, storage: VirtualStorage) -> VirtualTensor:
        tensor = torch.Tensor._make_subclass(cls, meta, False, device_for_backend_keys=device)
        tensor.meta, tensor.virtual_device, tensor.storage_shared = meta, device, storage
        return tensor

    def __init__(self, meta: torch.Tensor, device: torch.device, storage: VirtualStorage) -> None: ...

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise RuntimeError(f"{func} of a virtual tensor outside of its mode")

    def __repr__(self, *args: object, **kwargs: object) -> str:
        return f"VirtualTensor({tuple(self.shape)}, {self.dtype}, {self.virtual_device})"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copied = self.detach().clone()
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]

    @property
    def device(self) -> torch.device:
        return self.virtual_device

    @property
    def is_cuda(self) -> bool:
        return self.virtual_device.type == "cuda"

    @property
    def is_cpu(self) -> bool:
        return self.virtual_device.type == "cpu"

    @property
    def is_meta(self) -> bool:
        return False

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: VirtualTensor) -> None:
        _set_data(self, value)

    def backward(self, *args: Any, **kwargs: Any) -> None:
        """As Tensor.backward, but modes stay active in it, for checkpointed functions that are computed again."""
        torch.autograd.backward(self, *args, **kwargs)

    def get_device(self) -> int:
        return 0 if self.is_cuda else -1

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As Tensor.to, which compares the device that autograd knows."""
        copy = kwargs.pop("copy", False)
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, memory_format = _parse_to(*args, **kwargs)
        options: dict[str, Any] = {"non_blocking": non_blocking, "copy": copy}
        if memory_format is not None:
            options["memory_format"] = memory_format
        if device is not None and device.type == "cuda":
            device = GPU
        if device is None or device == self.virtual_device:
            return _to(self, dtype or self.dtype, **options)
        return _to(self, device, dtype or self.dtype, **options)

    def cuda(self, *args: object, **kwargs: Any) -> torch.Tensor:
        return self.to(GPU)

    def cpu(self, *args: object, **kwargs: Any) -> torch.Tensor:
        return self.to(CPU)

    def type_as(self, other: torch.Tensor) -> torch.Tensor:
        return self.to(other.device, other.dtype)

    def tolist(self) -> Any:
        """Ones, as many as there are elements."""
        return [1.0] * self.numel() if self.dim() else 1.0


def to_device(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor.to of a tensor with values: it would look for the current GPU where none is numbered, and take the device
    of another tensor as autograd knows it.
    """
    if args and isinstance(args[0], VirtualTensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    args = tuple(GPU if isinstance(x, str | torch.device) and x in _CURRENT else x for x in args)
    if kwargs.get("device") in _CURRENT:
        kwargs["device"] = GPU
    return _to(tensor, *args, **kwargs)


def _set_data(tensor: Any, value: torch.Tensor) -> None:
    """Set ``tensor.data``. A tensor with values becomes a virtual one with a virtual ``value``."""
    _data.__set__(tensor, value)
    if not isinstance(value, VirtualTensor):
        return
    if not isinstance(tensor, VirtualTensor):
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        tensor.__class__ = VirtualTensor
        if is_parameter:
            tensor._is_param = True  # which isinstance of Parameter asks
    tensor.meta, tensor.virtual_device, tensor.storage_shared = value.meta, value.virtual_device, value.storage_shared


DATA = property(_data.__get__, _set_data)  # for torch.Tensor
