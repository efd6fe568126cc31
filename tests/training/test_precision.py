"""Precisions that a GPU supports, by what torch says of it."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

import dreambooth
from dreambooth.autocast import without_autocast
from dreambooth.training.precision import kernel_problems, missing_requirements, supported_precisions

GPU = torch.device("cuda")
HALF, ALL = ("fp16", "no"), ("bf16", "fp16", "no")


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("gfx803", HALF),  # Polaris
        ("gfx906:sramecc+:xnack-", HALF),  # Vega 20
        ("gfx1010", HALF),  # RDNA1
        ("gfx1030", HALF),  # RDNA2
        ("gfx908:sramecc+:xnack-", ALL),  # MI100
        ("gfx90a:sramecc+:xnack-", ALL),  # MI200
        ("gfx942", ALL),  # MI300
        ("gfx1100", ALL),  # RDNA3
        ("gfx1201", ALL),  # RDNA4
    ],
)
def test_bf16_of_amd_follows_the_architecture(architecture, expected, monkeypatch):
    properties = types.SimpleNamespace(gcnArchName=architecture)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert supported_precisions(GPU) == expected
    assert set(missing_requirements(GPU)) == set(ALL) - set(expected)


@pytest.mark.parametrize(("capability", "expected"), [((6, 1), HALF), ((7, 5), HALF), ((8, 0), ALL), ((12, 0), ALL)])
def test_bf16_of_nvidia_follows_the_capability(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX")
    assert supported_precisions(GPU) == expected


def test_gtx_16_is_not_given_fp16_unasked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce GTX 1660 Ti")
    assert supported_precisions(GPU) == ("no", "fp16")


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["sm_75", "sm_86", "sm_120", "compute_120"], (6, 1), False),  # a GTX 1080 and the default build
        (["sm_50", "sm_60", "sm_70"], (6, 1), True),  # +cu126
        (["sm_75", "sm_80"], (8, 9), True),  # a later minor version
        (["sm_75", "sm_80", "sm_90a"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),  # intermediate code
        ([], (6, 1), True),  # not known
    ],
)
def test_a_build_without_kernels_for_the_gpu_is_refused(architectures, capability, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)
    assert kernel_problems(torch.device("cpu")) == []
    problems = kernel_problems(GPU)
    assert (problems == []) == runs
    if not runs:
        assert "no kernels for NVIDIA GeForce GTX 1080" in problems[0] and "+cu126" in problems[0]


def test_autocast_is_switched_off_only_where_there_is_one(monkeypatch):
    """torch before 2.5, which A1111 has, rejects mps even to switch it off."""
    autocast = torch.autocast

    def before_2_5(kind, *args, **kwargs):
        if kind not in ("cpu", "cuda"):
            raise RuntimeError(f"User specified an unsupported autocast device_type '{kind}'")
        return autocast(kind, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", before_2_5)
    with torch.autocast("cpu", torch.bfloat16):
        for kind in ("cpu", "mps", "xpu"):
            with without_autocast(torch.device(kind)):
                assert torch.is_autocast_enabled("cpu") == (kind != "cpu")
    source = Path(dreambooth.__file__).parent
    switches = [path.name for path in source.rglob("*.py") if ", enabled=False)" in path.read_text(encoding="utf-8")]
    assert switches == ["autocast.py"]
