"""Generated images are compared here, which needs a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def created(created_embedded: Path) -> Path:
    return created_embedded
