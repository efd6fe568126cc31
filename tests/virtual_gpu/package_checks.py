"""What the package does on a GPU besides training; run by test_rules.py on the pretend GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from dreambooth.runs import previews
from tests.virtual_gpu.short_runs import train
from tools.hashed_runs import LORA, Run, write_images

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


def _take_memory() -> None:
    torch.zeros(LARGE, dtype=torch.uint8, device="cuda")
