"""Exhausted memory is recognized whatever raises it; tracebacks do not keep tensors; the forecast follows settings."""

from __future__ import annotations

import gc
import os
import platform
import weakref
from pathlib import Path

import pytest
import torch

from dreambooth.hosts.standalone import best_device
from dreambooth.memory.forecast import OPTIMIZER_STATE_BYTES, ModelSize, forecast_memory, forecast_snapshot
from dreambooth.memory.out_of_memory import is_out_of_memory
from dreambooth.memory.release import clear_frames, free_memory
from dreambooth.models.sd.size_estimates import size_estimate
from dreambooth.models.size_estimate import SizeEstimate
from dreambooth.settings import Settings
from dreambooth.settings.training import BASE_PRECISIONS

SIZE = ModelSize(1000, 100, SizeEstimate())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("Failed to allocate memory for requested buffer of size 9"),
    ],
    ids=["python", "torch GPU", "torch CPU", "onnxruntime"],
)
def test_out_of_memory_is_recognized(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_cached_memory_of_other_kinds_of_gpu_is_freed(kind, monkeypatch):
    freed = []
    monkeypatch.setattr(torch.xpu, "is_available", lambda: kind == "xpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(getattr(torch, kind), "empty_cache", lambda: freed.append(kind))
    assert best_device() == torch.device(kind)
    free_memory()
    assert freed == [kind]


def test_other_errors_are_not_out_of_memory():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_cleared_frames_release_what_causes_refer_to():
    def cause():
        module = torch.nn.Linear(2, 2)
        references.append(weakref.ref(module))
        raise ValueError

    def wrapped():
        try:
            cause()
        except ValueError as error:
            raise RuntimeError from error

    references: list[weakref.ref] = []
    try:
        wrapped()
    except RuntimeError as error:
        failure = error
    assert references[0]() is not None
    clear_frames(failure)
    gc.collect()
    assert references[0]() is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_memory_of_weights_is_returned_to_the_system():
    """glibc keeps blocks of their size once one as large was freed, and anything in use above them."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    torch.ones(5_000_000)
    weights = [torch.ones(1_000_000) for _ in range(60)]
    in_use = torch.ones(10_000)
    full = resident()
    del weights
    free_memory()
    assert full - resident() > 200e6 and in_use.all()


def test_the_forecast_counts_optimizer_state_and_ema():
    full = {"use_lora": False, "stop_text_encoder": 0.0, "use_ema": False}

    def memory(**settings):
        return forecast_memory(Settings(**{**full, **settings}), "bf16", SIZE, class_images=False)

    states = OPTIMIZER_STATE_BYTES
    assert memory(optimizer="Prodigy") - memory() == 1000 * (states["Prodigy"] - states["Torch AdamW"])
    assert memory(use_ema=True, ema_on_cpu=False) - memory() == 4 * 1000
    assert memory(use_ema=True, ema_on_cpu=False, ema_precision="bf16") - memory() == 2 * 1000
    assert memory(use_ema=True, ema_on_cpu=True) == memory()
    lora = Settings(use_lora=True, use_ema=True, ema_on_cpu=False)
    assert forecast_memory(lora, "bf16", SIZE, False) == forecast_memory(
        Settings(use_lora=True, use_ema=False), "bf16", SIZE, False
    ), "a LoRA has no EMA"


LORA = {"use_lora": True, "lora_unet_rank": 16, "lora_txt_rank": 8}
FULL, TEXT, NO_CHECKPOINTING = {"use_lora": False}, {"stop_text_encoder": 1.0}, {"gradient_checkpointing": False}
FUSED = {**FULL, "fused_backward": True, "clip_each_tensor": True}
BF16_FUSED = {**FUSED, "full_mixed_precision": True}
# GB of a step at full size, batch 1, 512 and 1024 px: traced by tools/bench_memory.py.
TRACED = [
    ("SD1.5", LORA, 2.02), ("SD1.5", {**LORA, **TEXT}, 2.28), ("SD1.5", {**LORA, **NO_CHECKPOINTING}, 2.76),
    ("SD1.5", {**LORA, "train_batch_size": 4}, 2.66), ("SD1.5", {**LORA, "base_precision": "int8"}, 1.16),
    ("SD1.5", FULL, 13.86), ("SD1.5", {**FULL, **NO_CHECKPOINTING}, 14.07), ("SD1.5", {**FULL, **TEXT}, 15.72),
    ("SD1.5", FUSED, 10.64), ("SD1.5", BF16_FUSED, 5.73), ("SD1.5", {**BF16_FUSED, "optimizer": "8bit AdamW"}, 3.88),
    ("SDXL", LORA, 6.23), ("SDXL", {**LORA, **TEXT}, 8.04), ("SDXL", {**LORA, **NO_CHECKPOINTING}, 12.54),
    ("SDXL", {**LORA, "base_precision": "int8"}, 3.66), ("SDXL", {**LORA, "base_precision": "nf4"}, 2.54),
    ("SDXL", FULL, 41.34), ("SDXL", BF16_FUSED, 16.48),
]  # fmt: skip


@pytest.mark.parametrize(("model", "settings", "traced"), TRACED)
def test_the_forecast_is_within_5_percent_of_the_traced_step(model, settings, traced):
    unet, text, side = {"SD1.5": (859_520_964, 123_060_480, 512), "SDXL": (2_567_463_684, 817_720_320, 1024)}[model]
    checked = Settings(**{"gradient_checkpointing": True, "stop_text_encoder": 0.0, "resolution": side, **settings})
    size = ModelSize(unet, text, size_estimate(unet))
    assert forecast_memory(checked, "bf16", size, False, prompts_vary=False) == pytest.approx(traced * 1e9, rel=0.05)


def test_text_encoders_are_counted_where_they_stay_on_the_device():
    frozen = Settings(use_lora=True, stop_text_encoder=0.0)
    varying, cached = (forecast_memory(frozen, "bf16", SIZE, False, prompts_vary=vary) for vary in (True, False))
    assert varying - cached == 100 * 2


def test_the_forecast_counts_a_quantized_base_model():
    """About a byte for each frozen parameter, in place of 2 or 4; a text encoder's token embeddings stay."""
    for precision, n_bytes in (("bf16", 2), ("no", 4)):
        memory = {
            kind: forecast_memory(Settings(use_lora=True, base_precision=kind), precision, SIZE, class_images=False)
            for kind in BASE_PRECISIONS
        }
        assert memory["full"] - memory["int8"] == pytest.approx(1000 * (n_bytes - 1.01) + 100 * (n_bytes - 1.3), abs=1)
        assert memory["int8"] == memory["fp8"]
        assert memory["full"] - memory["nf4"] == pytest.approx(1000 * (n_bytes - 0.57) + 100 * (n_bytes - 1), abs=1)


def test_a_snapshot_has_float32_weights_and_both_moments():
    assert forecast_snapshot(Settings(use_lora=False, stop_text_encoder=0.0, use_ema=False), SIZE) == 1000 * 12
