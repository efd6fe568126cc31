"""A model from three files, images, and a run. A family's conftest imports these, and defines ``family``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth import actions
from dreambooth.jobs import Controls, Events
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, ModelFolder
from dreambooth.training.session import Session
from tests.flow_models.files import QUICK, Files, ModelFiles, create


@pytest.fixture
def files(tmp_path: Path, family: ModelFiles) -> Files:
    return family.write(tmp_path)


@pytest.fixture
def model(tmp_path: Path, files: Files) -> ModelFolder:
    return create(tmp_path, files)


@pytest.fixture
def concept(tmp_path: Path) -> Concept:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64 + 16 * (i // 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"a zwx toy {'seen ' * i}{i}.png")
    return Concept(instance_data_dir=str(folder), n_save_sample=1, save_infer_steps=2)


@pytest.fixture
def session(model: ModelFolder, concept: Concept) -> Iterator[Session]:
    """A LoRA run whose timesteps are one uniform draw."""
    values = {**QUICK, "timestep_sampling": "uniform", "timestep_shift": 1.0, "resolution_shift": False}
    config = actions.configure(model, values, [concept])
    session = Session(preflight(model, config).context(Controls(), Events()))
    yield session
    session.close()
