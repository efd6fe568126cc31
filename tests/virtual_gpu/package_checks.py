"""What the package does on a GPU besides training; run by test_rules.py on the pretend GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.checkpoint import checkpoint

from dreambooth.checkpoints.modules import load_modules
from dreambooth.memory import activation_offload as activations
from dreambooth.memory import offload as offloading
from dreambooth.memory import placement
from dreambooth.memory.activation_offload import ActivationOffload
from dreambooth.memory.offload import BlockOffload
from dreambooth.runs import previews
from dreambooth.sampling.generate import SampleRequest, generate_images
from dreambooth.settings import Folders
from tests.mini_models import create
from tests.virtual_gpu.short_runs import train
from tools.hashed_runs import LORA, Run, write_images

offloading.MIN_BYTES = activations.MIN_BYTES = 1024  # a very small model has small tensors only
LARGE = 100_000_000  # bytes; a run of a very small model takes a tenth


def check_memory_of_a_run_is_that_of_its_steps() -> None:
    """Not that of what ran before in this process, or of previews."""

    def generate_images(*args: Any, **kwargs: Any) -> Iterator[Any]:
        _take_memory()
        yield from generate(*args, **kwargs)

    generate = previews.generate_images
    _take_memory()
    run = Run({**LORA, "preview_every_steps": 1, "max_train_steps": 3}, concept={"n_save_sample": 1})
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(previews, "generate_images", generate_images):
        write_images(Path(folder))
        summary = train(run, torch.device("cuda"), Path(folder) / "run")
    assert len(summary.memory) == 3 and len(summary.images) == 3 and not summary.problems
    assert 0 < min(summary.memory) <= max(summary.memory) < LARGE / 2


def check_offloaded_blocks_are_on_the_gpu_only_while_they_compute() -> None:
    """With a copy ahead of its use; a block that is not checkpointed stays."""
    torch.manual_seed(0)
    model = Checkpointed(8)
    sizes = [sum(p.nbytes for p in block.parameters()) for block in model.blocks]
    expected = gradient_of(model)
    before, gpu = torch.cuda.memory_allocated(), Checkpointed(8)
    gpu.load_state_dict(model.state_dict())
    offload = BlockOffload(gpu, 1.0, torch.device("cuda"))
    assert torch.cuda.memory_allocated() - before < sizes[0] / 4
    assert all(p.device.type == "cpu" for block in gpu.blocks for p in block.parameters() if p.ndim > 1)
    for number in range(3):
        torch.cuda.reset_peak_memory_stats()
        assert torch.equal(gradient_of(gpu).cpu(), expected)
        if number:  # the first pass learns the order
            assert 2 * sizes[0] < torch.cuda.max_memory_allocated() - before < 3 * sizes[0]
    assert len(offload.blocks) == 8
    gpu.blocks[0](torch.ones(2, 64, device="cuda", requires_grad=True)).sum().backward()  # without checkpointing
    assert len(offload.blocks) == 7 and all(p.is_cuda for p in gpu.blocks[0].parameters())
    offload.synchronize()


def check_activations_are_in_main_memory_until_the_backward_pass() -> None:
    torch.manual_seed(0)
    model = Checkpointed(8).to("cuda")
    plain = gradient_of(model, 1024)
    offload = ActivationOffload(model, torch.device("cuda"))
    size, before = 1024 * 64 * 4, torch.cuda.memory_allocated()
    with offload.saving():
        x = torch.ones(1024, 64, device="cuda", requires_grad=True)
        loss = model(x).square().sum()
        assert torch.cuda.memory_allocated() - before < 5 * size, "of ten activations"
    loss.backward()
    assert x.grad is not None and torch.equal(x.grad, plain)
    offload.wait()


def check_images_are_generated_with_blocks_in_main_memory_where_weights_have_no_room() -> None:
    """The same images; class images and samples of a base that trains only quantized need this."""
    requests = [SampleRequest("a toy", "bad", seed, 2, 5.0, 64, 64) for seed in (1, 2)]
    with tempfile.TemporaryDirectory() as folder:
        working = create(Folders(Path(folder)), "mini", "v1x").working
        gpu = torch.device("cuda")
        expected = [image.tobytes() for image in generate_images(load_modules(working), requests)]
        n_bytes = sum(parameter.nbytes for parameter in load_modules(working).denoiser.parameters())
        for free, low, high in ((0, 0, 0.3), (n_bytes // 2, 0.3, 0.6), (None, 0.9, 1.1)):
            modules = load_modules(working)  # those of the GPU are freed
            before = torch.cuda.memory_allocated()
            with (
                mock.patch.object(placement, "free_bytes", lambda device, free=free: free),
                placement.weights_on_device(modules.denoiser, gpu, activations=0),
            ):
                assert low * n_bytes < torch.cuda.memory_allocated() - before < high * n_bytes, free
                assert [image.tobytes() for image in generate_images(modules, requests)] == expected, free


class Checkpointed(torch.nn.Module):
    """Blocks of two layers, each checkpointed."""

    def __init__(self, n: int) -> None:
        super().__init__()
        layers = [(torch.nn.Linear(64, 256), torch.nn.Linear(256, 64)) for _ in range(n)]
        self.blocks = torch.nn.ModuleList(torch.nn.Sequential(*pair) for pair in layers)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


def gradient_of(model: torch.nn.Module, batch: int = 2) -> torch.Tensor:
    """Of the sum of its squared outputs, for its input."""
    device = "cuda" if any(p.is_cuda for p in model.parameters()) else "cpu"
    x = torch.ones(batch, 64, device=device, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad is not None
    return x.grad


def _take_memory() -> None:
    torch.zeros(LARGE, dtype=torch.uint8, device="cuda")
