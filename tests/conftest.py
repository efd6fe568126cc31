"""Shared fixtures: a models folder, a model with random weights, one with the embedded weights."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

# Tests run in parallel, and so do the processes that they start: each uses one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

import dreambooth
from dreambooth.settings import Folders, ModelFolder
from tests import nightly
from tests.tokenizer_cache import cached_tokenizers  # noqa: F401 (a fixture)

_STARTED = time.monotonic()
EMBEDDED = Path(dreambooth.__file__).parent / "embedded"


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run kill tests first and skip each test that may not end within this time; for the nightly part"
    parser.addoption("--end-within", type=float, metavar="SECONDS", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("end_within") is not None:
        nightly.sort(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("end_within")
    if limit is not None:
        remaining = limit - (time.monotonic() - _STARTED)
        if remaining < nightly.seconds_allowed(item):
            pytest.skip(f"may not end within the {max(0, remaining):.0f} s left of --end-within")


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.collect()
    gc.freeze()  # each run looks for garbage at its end: not in all that was imported


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[None]:
    """No waiting for the disk in this process, which is not cut off from it: what is read back comes from memory.

    tests/test_files.py watches what is synced and when; processes that tests start, and kill, sync as always.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def freeze_garbage() -> None:
    """What the modules before have imported is not searched again either."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def mini_checkpoint() -> Path:
    """The embedded model's single file."""
    return EMBEDDED / "mini-sd.safetensors"


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(scope="session")
def created(tmp_path_factory: pytest.TempPathFactory, cached_tokenizers: None) -> Path:  # noqa: F811
    """A models folder with the model "mini". Must not be changed: use ``mini``.

    It has few channels and random weights, because most invariants hold for any weights, and a thousand runs must
    finish soon. Tests that need weights which generate images, or a source next to them, replace it with
    :func:`created_embedded`.
    """
    from tests.mini_models import create

    folder = tmp_path_factory.mktemp("created")
    create(Folders(folder / "models"), "mini", "v1x")
    gc.collect()
    gc.freeze()  # each run collects garbage at its end: skip everything that was imported
    return folder / "models"


@pytest.fixture(scope="session")
def created_embedded(
    tmp_path_factory: pytest.TempPathFactory,
    mini_checkpoint: Path,
    cached_tokenizers: None,  # noqa: F811
) -> Path:
    """The same with the embedded model."""
    from dreambooth import actions

    folder = tmp_path_factory.mktemp("embedded") / "models"
    actions.create(Folders(folder), "mini", mini_checkpoint)
    return folder


@pytest.fixture(scope="session")
def created_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the embedded flow-matching model."""
    from dreambooth import actions, embedded

    folder = tmp_path_factory.mktemp("flow") / "models"
    actions.create(Folders(folder), "mini", embedded.MODELS["zimage"].checkpoint)
    return folder


@pytest.fixture
def mini(created: Path, models_dir: Path) -> ModelFolder:
    """A copy of the model "mini", which may be changed."""
    shutil.copytree(created, models_dir)
    return ModelFolder(Folders(models_dir), "mini")


@pytest.fixture(scope="session")
def subject_concepts() -> Path:
    """The embedded subject's concepts file."""
    return EMBEDDED / "concepts.json"
