"""The page's server side over a models folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth.hosts import StandaloneHost
from dreambooth.jobs import jobs
from dreambooth.ui.page_controller import PageController


@pytest.fixture
def page_controller(models_dir: Path) -> PageController:
    return PageController(StandaloneHost(models_dir))


@pytest.fixture
def done() -> Callable[[str], None]:
    """Waits until the work that was just asked for has ended; what was answered must be no refusal."""

    def wait(answer: str) -> None:
        assert answer == "", answer
        assert jobs.current.wait(300)

    return wait
