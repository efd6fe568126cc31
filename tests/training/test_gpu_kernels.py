"""Settings of a GPU's kernels: in force in a run, and the host's again after it. Only what torch is told is tested."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dreambooth.settings import Settings
from dreambooth.training.gpu_kernels import gpu_kernels, use_channels_last
from dreambooth.training.reproducible import reproducible

GPU, CPU = torch.device("cuda"), torch.device("cpu")
MATMUL: Any = torch.backends.cuda.matmul
MKLDNN: Any = torch.backends.mkldnn
HAS_BACKEND_PRECISION = hasattr(MATMUL, "fp32_precision")  # since torch 2.9


def flags() -> list[Any]:
    """All that a host may have set. torch refuses to say some of it after one backend was set alone."""
    values: list[Any] = [torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32]
    for read in (torch.get_float32_matmul_precision, lambda: MATMUL.allow_tf32):
        try:
            values.append(read())
        except RuntimeError:
            values.append("refused")
    backends = (MATMUL, MKLDNN.matmul) if HAS_BACKEND_PRECISION else ()
    return values + [backend.fp32_precision for backend in backends]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with gpu_kernels(Settings(), GPU):
        yield


def by_backend() -> None:
    if not HAS_BACKEND_PRECISION:
        pytest.skip("torch 2.9 introduced it")
    MATMUL.fp32_precision = "tf32"


HOSTS: dict[str, Callable[[], None]] = {
    "torch's defaults": lambda: None,
    "A1111": lambda: setattr(MATMUL, "allow_tf32", True),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "one backend": by_backend,
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("is_on", [False, True])
def test_a_run_has_its_own_kernels_and_the_host_has_its_own_afterwards(host: str, is_on: bool) -> None:
    HOSTS[host]()
    torch.backends.cudnn.benchmark = not is_on
    before = flags()
    with contextlib.suppress(KeyError), gpu_kernels(Settings(allow_tf32=is_on, cudnn_benchmark=is_on), GPU):
        assert MATMUL.allow_tf32 == is_on
        assert torch.get_float32_matmul_precision() == ("high" if is_on else "highest")
        assert torch.backends.cudnn.benchmark == is_on
        raise KeyError
    assert flags() == before


def test_deterministic_algorithms_are_not_chosen_by_benchmarks() -> None:
    with gpu_kernels(Settings(cudnn_benchmark=True, deterministic=True), GPU), reproducible(True):
        assert not torch.backends.cudnn.benchmark


def test_nothing_changes_on_a_cpu() -> None:
    before = flags()
    with gpu_kernels(Settings(allow_tf32=True, cudnn_benchmark=True), CPU):
        assert flags() == before


def test_channels_last_changes_the_layout_of_convolutions_alone() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    values = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(2, 4, 3, 3)
    output = module(x)
    use_channels_last(module)
    strides = {name: value.stride() for name, value in module.state_dict().items()}
    assert strides.pop("0.weight") == (36, 1, 12, 4)
    assert all(stride == values[name].stride() for name, stride in strides.items())
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())
    torch.testing.assert_close(module(x), output)
