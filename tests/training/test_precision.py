"""Precisions that a GPU supports, by what torch says of it."""

from __future__ import annotations

import types

import pytest
import torch

from dreambooth.training.precision import missing_requirements, supported_precisions

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
    assert supported_precisions(GPU) == expected
