"""Fixtures of the checkpoint tests: full-size key tables, and comparing files tensor by tensor."""

from __future__ import annotations

import functools
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import TensorSpec, TensorWriter

KEYS = Path(__file__).parents[1] / "data" / "keys"


@pytest.fixture(scope="session")
def created(created_embedded: Path) -> Path:
    return created_embedded


@pytest.fixture
def new(tmp_path: Path) -> ModelFolder:
    """A model that does not exist yet, with a non-ASCII name."""
    return ModelFolder(Folders(tmp_path / "models"), "新 model")


@pytest.fixture
def read_all() -> Callable[[Path], dict[str, torch.Tensor]]:
    """The tensors of a file by name."""
    return _read_all


@pytest.fixture
def assert_same() -> Callable[[Path, Path], None]:
    """Assert that two files have the same names, dtypes and values, bit for bit."""

    def compare(path: Path, other: Path) -> None:
        with open_tensors(path) as ours, open_tensors(other) as theirs:
            assert set(ours) == set(theirs)
            for key in ours:
                assert ours.dtype(key) == theirs.dtype(key), key
                assert torch.equal(ours.get(key), theirs.get(key)), key

    return compare


@pytest.fixture(scope="session")
def key_table() -> dict[str, TensorSpec]:
    """All 1143 tensors of the published SD1.5."""
    return _key_table("sd15")


@pytest.fixture(scope="session")
def key_tables() -> Callable[[str], dict[str, TensorSpec]]:
    """All tensors of a published model, as the original code's own modules name them.

    Weights are fp16 as in the common files; schedules and EMA weights (model_ema) fp32.
    """
    return _key_table


@functools.cache
def _key_table(name: str) -> dict[str, TensorSpec]:
    table = json.loads(gzip.decompress((KEYS / f"{name}.json.gz").read_bytes()))
    halved = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
    return {
        key: TensorSpec(tuple(shape), torch.float16 if key.startswith(halved) and dtype == "float32" else _dtype(dtype))
        for key, (shape, dtype) in table.items()
    }


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


@pytest.fixture(scope="session")
def write_random() -> Callable[[Path, dict[str, TensorSpec]], None]:
    """Write the tensors of a table with random numbers, quickly, no two tensors alike."""

    def write(path: Path, table: dict[str, TensorSpec]) -> None:
        block = torch.randn(1 << 22, generator=torch.Generator().manual_seed(1)) * 0.02
        with TensorWriter(path, table, {"format": "pt"}) as writer:
            for number, (key, spec) in enumerate(table.items()):
                start, n = number * 3001, math.prod(spec.shape)
                repeats = (start + n) // block.numel() + 1
                values = block.to(spec.dtype).repeat(repeats)[start : start + n]
                if not spec.dtype.is_floating_point:
                    values = torch.arange(n, dtype=spec.dtype)
                writer.write(key, values.reshape(spec.shape))

    return write


def _read_all(path: Path) -> dict[str, torch.Tensor]:
    with open_tensors(path) as file:
        return {key: file.get(key) for key in file}
