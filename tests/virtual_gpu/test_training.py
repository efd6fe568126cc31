"""Training in every mode on a GPU that is not there: it gets through, as on the CPU, and Python waits no more often.

The pretend GPU raises where CUDA would, on tensors of different devices above all. In float32 its results are those of
the CPU to the bit. In half precision CUDA's autocast casts other operators than the CPU's: losses are close.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.virtual_gpu.flow_runs import run_all
from tests.virtual_gpu.modes import ALL, QUICK, precision_of
from tests.virtual_gpu.short_runs import ROOT, Summary, on_device, on_virtual_gpu
from tools.virtual_gpu.device_guard import Unavailable, built_guard

HALF_PRECISION_ERROR = 0.02  # of a loss around 1
PER_PROCESS = 8  # modes of a nightly test

# What makes Python wait in the last step, and how often; add to it only with a reason.
WAITS = {
    "lora, all around": {},
    "full, EMA on the CPU": {"D2H blocking training/ema.py _moved": 1},
    "inpainting, masked": {},
    "pure bf16": {},
    "base in int8": {},
    "offload, LoRA": {},
    "offload, full": {},
    "fp16": {"sync training/optimizers.py _step_plain": 1},
}  # fmt: skip


@pytest.fixture(autouse=True)
def virtual_gpu() -> None:
    try:
        built_guard()
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_modes_with_code_of_their_own_on_a_gpu(tmp_path: Path) -> None:
    """In one test, because they share a process."""
    assert WAITS.keys() == QUICK.keys()
    outcomes = _on_both(list(QUICK), tmp_path)
    copies = {
        "offload_fraction": "memory/offload.py _load",
        "offload_activations": "memory/activation_offload.py _fetch",
    }
    for key, place in copies.items():
        assert outcomes["offload, LoRA"][0].copies.get(f"H2D async {place}"), key
    kernels = {name: gpu.kernels for name, (gpu, _) in outcomes.items()}
    assert kernels == {name: ["allow_tf32", "cudnn_benchmark"] if name == "offload, LoRA" else [] for name in QUICK}
    assert [name for name, (gpu, _) in outcomes.items() if gpu.replays] == ["inpainting, masked"]
    assert all(outcomes["fp16"][0].emptied), "the cache of the GPU's memory, after previews"
    for name, (gpu, cpu) in outcomes.items():
        _assert_same(name, gpu, cpu)
        waits = {f"sync {place}": n for place, n in gpu.syncs.items() if f"D2H blocking {place}" not in gpu.copies}
        waits |= {copy: n for copy, n in gpu.copies.items() if " blocking " in copy}
        assert waits == WAITS[name], name


NIGHTLY = [name for name in ALL if name not in QUICK]


@pytest.mark.nightly(minutes=8)
@pytest.mark.parametrize("start", range(0, len(NIGHTLY), PER_PROCESS))
def test_every_mode(start: int, tmp_path: Path) -> None:
    for name, (gpu, cpu) in _on_both(NIGHTLY[start : start + PER_PROCESS], tmp_path).items():
        _assert_same(name, gpu, cpu)
        assert bool(gpu.replays) == name.startswith("CUDA graphs"), name


@pytest.mark.nightly(minutes=4)
def test_flow_matching_families(tmp_path: Path) -> None:
    """Chroma has no graph: diffusers' module copies a table to the GPU in each step."""
    out = tmp_path / "outcomes.json"
    command = [
        sys.executable,
        "-m",
        "tools.virtual_gpu",
        "tests.virtual_gpu.flow_runs",
        str(tmp_path / "gpu"),
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    gpu, cpu = json.loads(out.read_text(encoding="utf-8")), run_all(tmp_path / "cpu", torch.device("cpu"))
    assert len(gpu) == 2 * len(cpu) == 10
    for name, outcome in gpu.items():
        has_failed = any("CUDA graphs failed" in text for text in outcome["warnings"])
        assert has_failed == (name == "Chroma, CUDA graphs"), outcome["warnings"]
        assert outcome["previews"] == 1 and len(outcome["losses"]) == 4, name
        if name in cpu:
            assert outcome["losses"] == pytest.approx(cpu[name]["losses"], abs=1e-6), name


def _on_both(names: list[str], folder: Path) -> dict[str, tuple[Summary, Summary]]:
    gpu, cpu = on_virtual_gpu(names, folder / "gpu"), on_device("cpu", names, folder / "cpu")
    return {name: (gpu[name], cpu[name]) for name in names}


def _assert_same(name: str, gpu: Summary, cpu: Summary) -> None:
    assert (gpu.error, gpu.problems) == (cpu.error, []), name
    assert gpu.weights.keys() == cpu.weights.keys() and len(gpu.images) == len(cpu.images), name
    if precision_of(ALL[name]) == "no":
        assert gpu.losses == pytest.approx(cpu.losses, abs=1e-6), name
        assert (gpu.weights, gpu.images) == (cpu.weights, cpu.images), name
    else:
        assert gpu.losses == pytest.approx(cpu.losses, abs=HALF_PRECISION_ERROR), name
