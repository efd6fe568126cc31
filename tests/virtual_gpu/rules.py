"""What the pretend GPU must refuse and count; run by test_rules.py on it, with the checks of package_checks.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.virtual_gpu import package_checks
from tools.virtual_gpu.pretend_gpu import current_gpu

MIXED = "Expected all tensors to be on the same device"
GPU, CPU = torch.ones(3, device="cuda"), torch.ones(3)


def check_devices() -> None:
    for refused in (
        lambda: GPU + CPU,
        lambda: torch.ones(2, 3) @ GPU,
        lambda: torch.cat([GPU, CPU]),
        lambda: torch.stack([GPU.sum(), torch.tensor(1.0)]),  # no scalar of the CPU but in pointwise operators
        lambda: CPU[torch.tensor([0], device="cuda")],
        lambda: torch.nn.functional.linear(GPU, torch.ones(2, 3)),
    ):
        with pytest.raises(RuntimeError, match=MIXED):
            refused()
    assert (GPU * torch.tensor(2.0)).device.type == GPU[torch.tensor([0, 2])].device.type == "cuda"
    parameter = torch.nn.Parameter(GPU.clone())
    parameter.data = CPU  # as CUDA allows
    assert parameter.device.type == "cpu" and parameter.sum() == 3
    with pytest.raises(RuntimeError, match=MIXED):
        _ = parameter + GPU


def check_generators() -> None:
    for device, other in (("cuda", "cpu"), ("cpu", "cuda")):
        with pytest.raises(RuntimeError, match="device type for generator"):
            torch.randn(2, device=device, generator=torch.Generator(other))
    numbers = torch.randn(2, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    assert torch.equal(numbers.cpu(), torch.randn(2, generator=torch.Generator().manual_seed(1)))


def check_numpy() -> None:
    for refused in (GPU.numpy, lambda: np.asarray(GPU)):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            refused()
    assert GPU.cpu().numpy().tolist() == [1.0] * 3


def check_modules() -> None:
    """Parameters stay the same objects on their way to the GPU and back, as CUDA's do."""
    module = torch.nn.Linear(3, 2)
    weight = module.weight
    module.to("cuda")
    assert module.weight is weight and weight.is_cuda and isinstance(weight, torch.nn.Parameter)
    with torch.autocast("cuda", torch.bfloat16):
        output = module(GPU)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert weight.grad is not None and weight.grad.is_cuda
    module.to("cpu")
    assert module.weight is weight and not weight.is_cuda


def check_log() -> None:
    gpu = current_gpu()
    assert gpu
    gpu.log.clear()
    uploaded = CPU.pin_memory().to("cuda", non_blocking=True) + torch.ones(3).to("cuda")
    downloaded = uploaded.to("cpu", non_blocking=True)
    assert {kind: n for (kind, _), n in gpu.log.copies.items()} == {"H2D async": 1, "H2D blocking": 1, "D2H async": 1}
    assert not gpu.log.syncs and downloaded.tolist() == [2.0] * 3
    for read in (lambda: uploaded.sum().item(), lambda: bool(uploaded.any()), uploaded.tolist, uploaded.cpu,
                 uploaded.nonzero, lambda: uploaded[uploaded > 0]):  # fmt: skip
        gpu.log.clear()
        read()
        assert sum(gpu.log.syncs.values()) == 1


def check_streams() -> None:
    """What another stream writes or reads must be waited for, also by Python."""
    stream, pinned = torch.cuda.Stream(), torch.ones(3).pin_memory()
    torch.cuda.current_stream().wait_stream(stream)
    target = torch.empty_like(pinned, device="cuda")
    stream.wait_stream(torch.cuda.current_stream())  # which may still use the memory that the target has now

    def copy() -> None:
        with torch.cuda.stream(stream):
            target.copy_(pinned, non_blocking=True)

    copy()
    with pytest.raises(RuntimeError, match="another stream writes"):
        _ = target + 1
    torch.cuda.current_stream().wait_event(stream.record_event())
    target.add_(1)
    with pytest.raises(RuntimeError, match="another stream writes"):
        copy()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        pinned.copy_(target, non_blocking=True)
    with pytest.raises(RuntimeError, match="another stream reads"):
        target.zero_()
    with pytest.raises(RuntimeError, match="another stream writes"):
        _ = pinned + 1
    stream.synchronize()
    assert pinned.tolist() == [2.0] * 3
    with torch.cuda.stream(stream):
        freed = target * 2
    other = torch.cuda.current_stream()
    other.wait_stream(stream)
    freed.add_(1)
    del freed  # its stream has not waited for the addition
    with pytest.raises(RuntimeError, match="freed while"):
        _ = GPU + 1
    torch.cuda.synchronize()


def check_memory() -> None:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    large = torch.zeros(1000, device="cuda")  # 4000 bytes in blocks of 512
    view = large[10:]
    del large
    assert torch.cuda.memory_allocated() - before == 4096 and view.is_cuda
    del view
    assert torch.cuda.memory_allocated() == before and torch.cuda.max_memory_allocated() == before + 4096


if __name__ == "__main__":
    for name, check in {**globals(), **vars(package_checks)}.items():
        if name.startswith("check_"):
            check()
            print(name)
