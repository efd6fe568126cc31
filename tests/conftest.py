"""What many tests start from: the embedded model, a models folder, a model that was created from it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Tests run side by side, and so do the processes that they start: each is to keep to one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

import dreambooth
from dreambooth.settings import Folders, ModelFolder

EMBEDDED = Path(dreambooth.__file__).parent / "embedded"


@pytest.fixture(scope="session")
def mini_checkpoint() -> Path:
    """The embedded model's single file."""
    return EMBEDDED / "mini-sd.safetensors"


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(scope="session")
def created(tmp_path_factory: pytest.TempPathFactory, mini_checkpoint: Path) -> Path:
    """A models folder that holds the model "mini". Not to be changed: take ``mini``."""
    from dreambooth import actions

    folder = tmp_path_factory.mktemp("created") / "models"
    actions.create(Folders(folder), "mini", mini_checkpoint)
    return folder


@pytest.fixture
def mini(created: Path, models_dir: Path) -> ModelFolder:
    """A model of one's own, created from the embedded checkpoint."""
    shutil.copytree(created, models_dir)
    return ModelFolder(Folders(models_dir), "mini")


@pytest.fixture(scope="session")
def subject_concepts() -> Path:
    """The embedded subject's concepts file."""
    return EMBEDDED / "concepts.json"
