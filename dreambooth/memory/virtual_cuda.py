"""torch as it is with a GPU, for a process that has none: one device, one stream, memory as it is counted.

What is replaced is so for the whole process: only for a process of its own, and for tests.
"""

from __future__ import annotations

import contextlib
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.cuda.amp.common
import torch.nn.functional as F
from torch import nn

from dreambooth.memory.allocations import Allocations
from dreambooth.memory.replaced import replaced

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten
# torch.is_autocast_enabled has the argument device_type.
_ASKS_BY_DEVICE = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 4)
_attention = F.scaled_dot_product_attention


@dataclass(frozen=True)
class GpuModel:
    """The card that is pretended. ``gcn_arch``: AMD's name of the architecture, for a ROCm card."""

    name: str = "Pretend GPU"
    capability: tuple[int, int] = (8, 6)
    memory: int = 24 * 10**9
    gcn_arch: str = ""


class Event:
    """An event of a device on which all work is done at once."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def record(self, *args: object) -> None: ...
    def wait(self, *args: object) -> None: ...
    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: Event) -> float:
        return 0.0


class Stream:
    device, device_index = DEVICE, 0

    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def synchronize(self) -> None: ...
    def wait_stream(self, stream: Stream) -> None: ...
    def wait_event(self, event: Event) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *args: object) -> None: ...


@contextlib.contextmanager
def cuda_api(gpu: GpuModel, allocations: Allocations, log: Counter[str], generator: torch.Generator) -> Iterator[None]:
    """In the block, torch.cuda answers for the virtual GPU.

    ``log``: counts calls of some of its functions. ``generator``: the device's default one.
    """
    properties = types.SimpleNamespace(
        name=gpu.name, total_memory=gpu.memory, major=gpu.capability[0], minor=gpu.capability[1],
        multi_processor_count=80, gcnArchName=gpu.gcn_arch,
    )  # fmt: skip

    def counted(name: str, result: Any = None) -> Any:
        def call(*args: object, **kwargs: object) -> Any:
            log[name] += 1
            return result() if callable(result) else result

        return call

    functions = {
        "is_available": lambda: True, "is_initialized": lambda: True, "_is_compiled": lambda: True,
        "_lazy_init": lambda: None, "init": lambda: None, "device_count": lambda: 1, "current_device": lambda: 0,
        "set_device": lambda device: None, "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0, "is_current_stream_capturing": lambda: False,
        "get_arch_list": lambda: [f"sm_{gpu.capability[0]}{gpu.capability[1]}"],
        "get_device_name": lambda device=None: gpu.name, "get_device_capability": lambda device=None: gpu.capability,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: gpu.capability >= (8, 0),
        "get_rng_state": lambda device=None: generator.get_state(),
        "set_rng_state": lambda state, device=None: generator.set_state(state),
        "default_generators": (generator,),
        "mem_get_info": lambda device=None: (gpu.memory - allocations.highest, gpu.memory),
        "memory_allocated": lambda device=None: allocations.total,
        "memory_reserved": lambda device=None: allocations.highest,
        "max_memory_allocated": lambda device=None: allocations.highest,
        "max_memory_reserved": lambda device=None: allocations.highest,
        "reset_peak_memory_stats": counted("reset_peak_memory_stats", allocations.reset_highest),
        "empty_cache": counted("empty_cache"), "synchronize": counted("synchronize"), "ipc_collect": lambda: None,
        "Event": Event, "Stream": Stream, "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(), "stream": lambda stream: stream or Stream(),
    }  # fmt: skip

    def pin_memory(tensor: torch.Tensor, device: object = None) -> torch.Tensor:
        if tensor.device.type != "cpu":
            raise RuntimeError(f"cannot pin '{tensor.type()}' only dense CPU tensors can be pinned")
        log["pin_memory"] += 1
        return tensor.clone()

    with (
        replaced(torch.cuda, **functions),
        replaced(torch.Tensor, pin_memory=pin_memory, is_pinned=lambda tensor, device=None: False),
        replaced(torch._C, _cuda_getCurrentRawStream=lambda index: 0),  # bitsandbytes asks
        replaced(torch.cuda.random, device_count=lambda: 1),
        replaced(torch.cuda.amp.common, amp_definitely_not_available=lambda: False),
    ):
        yield


def is_autocast_enabled() -> bool:
    """On the GPU: what torch before 2.4 means without a device type."""
    return torch.is_autocast_enabled("cuda") if _ASKS_BY_DEVICE else torch.is_autocast_enabled()


@contextlib.contextmanager
def gpu_kernels() -> Iterator[None]:
    """In the block, attention is computed as CUDA does, and modules are moved by new parameters.

    A virtual tensor can't exchange its storage for one elsewhere.
    """
    with replaced(F, scaled_dot_product_attention=_gpu_attention), replaced(nn.Module, _apply=_replace_tensors):
        yield


def _replace_tensors(module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    """What ``Module.to`` does, with new parameters: a fake tensor can't exchange its storage for one elsewhere."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        moved = function(parameter.detach())
        if (moved.device, moved.dtype) != (parameter.device, parameter.dtype):
            module._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else function(buffer)
    return module


def _gpu_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention with the kernel that CUDA chooses: flash attention in half precision, else the memory-efficient one."""
    if not query.is_cuda:
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if is_autocast_enabled():
        dtype = torch.get_autocast_gpu_dtype()
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    width = query.shape[-1]
    if query.dtype != torch.float32 and width <= 256 and width % 8 == 0 and attn_mask is None:
        flash = aten._scaled_dot_product_flash_attention.default
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    keeps = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    efficient = aten._scaled_dot_product_efficient_attention.default
    return efficient(query, key, value, attn_mask, keeps, dropout_p, is_causal, scale=scale)[0]
