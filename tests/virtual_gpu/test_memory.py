"""The fake GPU counts every tensor that a run holds, by what it is for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dreambooth.checkpoints.modules import open_component
from dreambooth.memory.allocations import BLOCK
from dreambooth.settings import ModelFolder
from tools.virtual_gpu.device_guard import Unavailable, built_guard

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def traces(created: Path) -> dict[str, Any]:
    return _traces(created, "lora", "full")


def test_bytes_of_a_step_and_of_a_preview(mini: ModelFolder, traces: dict[str, Any]) -> None:
    full, lora = traces["full"]["peaks"], traces["lora"]["peaks"]
    unet, text, vae = (_bytes(mini, part) for part in ("unet", "text_encoder", "vae"))
    assert full["optimizer"]["gradients"] == unet(4) + text(4)
    assert full["optimizer"]["weights"] == unet(4) + text(4) + 2 * BLOCK, "and the text encoder's position ids"
    assert full["optimizer"]["EMA weights"] == unet(4)
    assert (
        0 <= full["optimizer"]["optimizer state"] - 2 * (unet(4) + text(4)) < 1000 * BLOCK
    )  # two moments, and step counts
    assert lora["forward"]["weights"] == unet(2)
    assert lora["backward"]["adapters"] * 2 <= lora["backward"]["optimizer state"]
    assert lora["decoding"][""] > unet(2) + vae(4)
    assert lora["sampling"][""] > unet(2) + text(2), "the prompts are encoded beside the denoiser"
    assert lora["decoding"]["weights"] < lora["sampling"][""]
    assert not traces["lora"]["syncs"] and not traces["full"]["syncs"]


def test_the_planner_finds_the_bytes_of_the_fake_gpu(traces: dict[str, Any]) -> None:
    """In each phase, by category."""
    _compare(traces)


@pytest.mark.nightly
def test_the_planner_finds_them_in_each_mode(created: Path) -> None:
    traces = _traces(created)
    assert len(traces) >= 14
    _compare(traces)


def _traces(models: Path, *modes: str) -> dict[str, Any]:
    try:
        built_guard()
    except Unavailable as reason:
        pytest.skip(str(reason))
    command = [sys.executable, "-m", "tests.virtual_gpu.traced", str(models), *modes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def _compare(traces: dict[str, Any]) -> None:
    for mode, results in traces.items():
        assert results["planned"].keys() == results["peaks"].keys(), mode
        for phase, peaks in results["peaks"].items():
            assert results["planned"][phase] == peaks, f"{mode}: {phase}"


def _bytes(model: ModelFolder, component: str) -> Any:
    """What a component takes with so many bytes for each parameter, in blocks of the allocator."""
    with open_component(model.working, component) as file:
        numbers = [math.prod(file.shape(key)) for key in file if not key.endswith("position_ids")]
    return lambda size: sum(-(-n * size // BLOCK) * BLOCK for n in numbers)
