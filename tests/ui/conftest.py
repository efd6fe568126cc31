"""The page's controller, with a models folder of its own."""

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
    """Waits for the end of the job that was just started; ``message`` must not be an error."""

    def wait(message: str) -> None:
        assert message == "", message
        assert jobs.current.wait(300)

    return wait
