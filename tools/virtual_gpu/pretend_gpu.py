"""The pretend GPU: a block in which torch has a CUDA device that computes on the CPU behind CUDA's rules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch._dynamo.config  # these look for a GPU when they are imported, and must find none
import torch._subclasses.fake_tensor

from dreambooth.memory.allocations import Allocations
from dreambooth.memory.virtual_cuda import DEVICE, GpuModel, cuda_api
from dreambooth.memory.virtual_kernels import declare_cuda_kernels
from tools.virtual_gpu.cpu_choices import cpu_choices
from tools.virtual_gpu.device_log import DeviceLog
from tools.virtual_gpu.pretend_tensor import DATA, PretendDevice
from tools.virtual_gpu.streams import DEFAULT, Event, Stream, current_stream, stream, synchronize


@dataclass
class PretendGpu:
    allocations: Allocations
    log: DeviceLog


_active: list[PretendGpu] = []  # at most one


def current_gpu() -> PretendGpu | None:
    """That of the block that is running; None outside of one."""
    return _active[-1] if _active else None


@contextlib.contextmanager
def pretend_gpu(gpu: GpuModel = GpuModel()) -> Iterator[PretendGpu]:  # noqa: B008 (frozen)
    """In the block, torch has a GPU. Needs :func:`device_guard.load_guard`."""
    declare_cuda_kernels()
    allocations, log = Allocations(), DeviceLog()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # these tensors can't exchange their storage
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is dispatched as a copy
    try:
        with (
            cuda_api(gpu, allocations, log.calls, torch.Generator(DEVICE)),
            mock.patch.multiple(torch.cuda, **_streams(log)),
            cpu_choices(),
            mock.patch.object(torch.Tensor, "data", DATA),
            PretendDevice(allocations, log),
        ):
            _active.append(PretendGpu(allocations, log))
            yield _active[-1]
    finally:
        _active.clear()
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(swaps)


def _streams(log: DeviceLog) -> dict[str, Any]:
    """Functions of torch.cuda for streams that watch what waits for what."""

    def synchronize_counted(device: object = None) -> None:
        log.calls["synchronize"] += 1
        synchronize()

    return {
        "Event": Event, "Stream": Stream, "stream": stream, "current_stream": current_stream,
        "default_stream": lambda device=None: DEFAULT, "synchronize": synchronize_counted,
    }  # fmt: skip
