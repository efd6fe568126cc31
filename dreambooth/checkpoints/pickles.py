"""A safe reader for torch's pickled checkpoints (.ckpt, .pt, .bin) that does not use the pickle module.

A pickle is a program, and running it means trusting its author. This reader interprets the opcodes itself and builds
only plain values: dicts, lists, numbers, and for each tensor the location of its data. Globals are matched by name: the
few that checkpoints need are supported, classes of training frameworks become empty placeholders, and any other one is
an error. Nothing is ever imported or called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from dreambooth.errors import UserError
from dreambooth.safetensors_header import MAX_SIZE

_STORAGE_TYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
_REBUILDS = {
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
# Globals that training scripts store next to the weights. None is needed, all are data.
_HARMLESS_PACKAGES = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "torch.optim.")
_HARMLESS = {
    "_codecs.encode", "argparse.Namespace", "builtins.bytearray", "builtins.complex", "builtins.dict",
    "builtins.frozenset", "builtins.int", "builtins.list", "builtins.set", "builtins.slice", "collections.Counter",
    "collections.defaultdict", "collections.deque", "datetime.datetime", "datetime.timedelta",
    "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy.dtype", "numpy.ndarray", "pathlib.Path", "pathlib.PosixPath",
    "pathlib._local.Path", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",  # as Python 3.13 has them
    "pathlib.PurePosixPath", "pathlib.PureWindowsPath", "pathlib.WindowsPath", "torch.Size", "torch.Tensor",
    "torch.device", "torch.nn.parameter.Parameter", "types.SimpleNamespace", "typing.Any",
}  # fmt: skip


@dataclass(frozen=True)
class Global:
    """A global that the pickle refers to, e.g. ``torch._utils._rebuild_tensor_v2``."""

    full: str


@dataclass(frozen=True)
class Storage:
    """A contiguous block of elements in the file, with torch's key."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: ``offset`` and ``stride`` count elements, as in torch."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Placeholder:
    """Replaces an object that is not needed."""


class PickleReader:
    """Interprets the opcodes of one pickle with a stack and a memo, without running any code."""

    def __init__(self, file: IO[bytes], path: Path):
        self.file, self.path = file, path
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks saved by MARK
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The value of the pickle. Invalid bytes may raise any exception."""
        for opcode, argument, _ in pickletools.genops(self.file):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("the pickle is truncated")

    def _step(self, name: str, argument: Any) -> None:
        if name in _ACTIONS:
            _ACTIONS[name](self)
        elif name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(self._global(*argument.split(" ", 1)))
        elif name == "INST":
            items = self.marked()
            self.stack.append(self._call(self._global(*argument.split(" ", 1)), items))
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"unexpected opcode {name}")

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def collect(self, make: Callable[[list[Any]], Any]) -> None:
        items = self.marked()
        self.stack.append(make(items))

    def last(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_pairs(items))

    def pop_items(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def stack_global(self) -> None:
        self.stack.append(self._global(*self.pop_items(2)))

    def call(self, count: int) -> None:
        function, *arguments = self.pop_items(count)
        self.stack.append(self._call(function, list(arguments[0])))

    def obj(self) -> None:
        function, *arguments = self.marked()
        self.stack.append(self._call(function, arguments))

    def persistent(self) -> None:
        kind, storage_type, key, _, numel, *view = self.stack.pop()
        if kind != "storage" or not isinstance(storage_type, Global) or any(view):
            raise ValueError("the pickle refers to data outside the file")
        dtype = _STORAGE_TYPES[storage_type.full.rpartition(".")[2]]
        self.stack.append(Storage(str(key), dtype, int(numel)))

    def _global(self, module: str, name: str) -> Global:
        module = {"__builtin__": "builtins", "nt": "os", "posix": "os"}.get(module, module)
        full = f"{module}.{name}"
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_storage = module in ("torch", "torch.storage") and name in _STORAGE_TYPES
        is_listed = full in _HARMLESS or full in _REBUILDS or full == "collections.OrderedDict"
        if not (is_listed or is_dtype or is_storage or full.startswith(_HARMLESS_PACKAGES)):
            raise UserError(
                f"{self.path} contains code ({full}) and was not loaded. "
                "Get the model as .safetensors, which can't contain code."
            )
        return Global(full)

    def _call(self, function: Global, arguments: list[Any]) -> Any:
        if function.full == "collections.OrderedDict":
            return dict(arguments[0]) if arguments else {}
        if function.full.startswith("torch._utils._rebuild_parameter"):
            return arguments[0]
        if function.full == "torch._tensor._rebuild_from_type_v2":  # a tensor with custom attributes
            return self._call(arguments[0], list(arguments[2]))
        if function.full in _REBUILDS:
            storage, offset, shape, stride = arguments[:4]
            dtype = _dtype(arguments[6]) if function.full.endswith("_v3") else None
            return _tensor(storage, offset, shape, stride, dtype)
        return Placeholder()


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {k: v for k, v in zip(items[::2], items[1::2], strict=True) if not isinstance(k, (list, dict))}


def _dtype(name: Global) -> torch.dtype:
    return getattr(torch, name.full.rpartition(".")[2])


def _tensor(storage: Storage, offset: int, shape: tuple, stride: tuple, dtype: torch.dtype | None) -> PickledTensor:
    is_valid = all(type(n) is int and 0 <= n < MAX_SIZE for n in (offset, *shape, *stride))
    if not isinstance(storage, Storage) or len(shape) != len(stride) or not is_valid:
        raise ValueError("the description of a tensor is invalid")
    return PickledTensor(storage, offset, tuple(shape), tuple(stride), dtype or storage.dtype)


_PUSH_ARGUMENT = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_ACTIONS: dict[str, Callable[[PickleReader], object]] = {
    "NONE": lambda r: r.stack.append(None),
    "NEWTRUE": lambda r: r.stack.append(True),
    "NEWFALSE": lambda r: r.stack.append(False),
    "MARK": PickleReader.mark,
    "POP": lambda r: r.stack.pop() if r.stack else r.marked(),
    "POP_MARK": lambda r: r.marked(),
    "DUP": lambda r: r.stack.append(r.stack[-1]),
    "MEMOIZE": lambda r: r.memo.update({len(r.memo): r.stack[-1]}),
    "EMPTY_TUPLE": lambda r: r.stack.append(()),
    "TUPLE1": lambda r: r.last(1),
    "TUPLE2": lambda r: r.last(2),
    "TUPLE3": lambda r: r.last(3),
    "TUPLE": lambda r: r.collect(tuple),
    "EMPTY_LIST": lambda r: r.stack.append([]),
    "LIST": lambda r: r.collect(list),
    "APPEND": lambda r: r.extend([r.stack.pop()]),
    "APPENDS": lambda r: r.extend(r.marked()),
    "EMPTY_DICT": lambda r: r.stack.append({}),
    "DICT": lambda r: r.collect(_pairs),
    "SETITEM": lambda r: r.update(r.pop_items(2)),
    "SETITEMS": lambda r: r.update(r.marked()),
    "EMPTY_SET": lambda r: r.stack.append(Placeholder()),
    "FROZENSET": lambda r: r.collect(lambda items: Placeholder()),
    "ADDITEMS": lambda r: r.marked(),
    "STACK_GLOBAL": PickleReader.stack_global,
    "REDUCE": lambda r: r.call(2),
    "NEWOBJ": lambda r: r.call(2),
    "NEWOBJ_EX": lambda r: r.call(3),
    "OBJ": PickleReader.obj,
    "BUILD": lambda r: r.stack.pop(),  # the object's state, which is not needed
    "BINPERSID": PickleReader.persistent,
}
