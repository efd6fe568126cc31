"""Replacements of torch.cuda's functions for a virtual GPU: one device, one stream, memory as it is counted."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from tools.virtual_gpu.allocations import Allocations
from tools.virtual_gpu.device_log import DeviceLog

DEVICE = torch.device("cuda", 0)


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
def cuda_api(gpu: GpuModel, allocations: Allocations, log: DeviceLog) -> Iterator[None]:
    """In the block, torch.cuda answers for the virtual GPU."""
    generator = torch.Generator(DEVICE)
    properties = types.SimpleNamespace(
        name=gpu.name, total_memory=gpu.memory, major=gpu.capability[0], minor=gpu.capability[1],
        multi_processor_count=80, gcnArchName=gpu.gcn_arch,
    )  # fmt: skip

    def counted(name: str, result: Any = None) -> Any:
        def call(*args: object, **kwargs: object) -> Any:
            log.calls[name] += 1
            return result() if callable(result) else result

        return call

    replaced = {
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
        log.calls["pin_memory"] += 1
        return tensor.clone()

    with (
        mock.patch.multiple(torch.cuda, **replaced),
        mock.patch.multiple(torch.Tensor, pin_memory=pin_memory, is_pinned=lambda tensor, device=None: False),
        mock.patch.object(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, create=True),  # bitsandbytes asks
        mock.patch("torch.cuda.random.device_count", lambda: 1),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
    ):
        yield
