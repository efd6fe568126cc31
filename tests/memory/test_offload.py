"""Offloading to main memory: what is offloaded, and what excludes it. How it runs is tested on the virtual GPU."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from dreambooth.checkpoints.modules import load_modules
from dreambooth.memory.offload import repeated_blocks, spread
from dreambooth.memory.pinned import PinnedMemory
from dreambooth.runs.consistency import offload_problems
from dreambooth.settings import ModelFolder, Settings

GPU = torch.device("cuda")


def test_blocks_are_those_that_are_checkpointed(mini: ModelFolder) -> None:
    unet = load_modules(mini.working, vae=False, text_encoder=False).denoiser
    blocks = repeated_blocks(unet)
    assert {type(block).__name__ for block in blocks} == {"BasicTransformerBlock", "ResnetBlock2D"}
    of_class = [m for m in unet.modules() if type(m).__name__ in ("BasicTransformerBlock", "ResnetBlock2D")]
    assert len(blocks) == len(of_class)


@pytest.mark.parametrize(("fraction", "numbers"), [(0.0, []), (0.5, [1, 3, 5, 7]), (1.0, [*range(8)])])
def test_a_fraction_is_spread_evenly(fraction: float, numbers: list[int]) -> None:
    blocks = [nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64)) for _ in range(8)]
    chosen = spread(blocks, fraction)
    assert [i for i, block in enumerate(blocks) if any(block is c for c in chosen)] == numbers


def test_without_page_locked_memory_ordinary_memory_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    empty = torch.empty

    def refusing(*args, pin_memory=False, **kwargs):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", refusing)
    memory = PinnedMemory()
    with caplog.at_level(logging.WARNING):
        tensors = [memory.like(torch.ones(3, 5, dtype=dtype).t()) for dtype in (torch.float32, torch.int8)]
    assert [(t.shape, t.stride(), t.dtype) for t in tensors] == [
        ((5, 3), (1, 5), torch.float32), ((5, 3), (1, 5), torch.int8),
    ]  # fmt: skip
    assert len(caplog.records) == 1 and "no more page-locked memory" in caplog.text


def test_what_excludes_it() -> None:
    lora = Settings(use_lora=True, offload_fraction=1.0, offload_activations=True)
    assert offload_problems(lora, GPU) == [] == offload_problems(Settings(), torch.device("cpu"))
    blocks, activations = offload_problems(lora, torch.device("cpu"))
    assert "this run uses cpu. Set it to 0" in blocks and "Switch it off" in activations
    plain = Settings(use_lora=True, offload_fraction=0.5, gradient_checkpointing=False)
    assert "needs gradient_checkpointing" in offload_problems(plain, GPU)[0]
    full = Settings(use_lora=False, offload_fraction=0.5)
    assert "Switch fused_backward on" in offload_problems(full, GPU)[0]
    assert offload_problems(Settings(use_lora=False, offload_fraction=0.5, fused_backward=True), GPU) == []
