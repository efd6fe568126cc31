"""What is drawn here is compared: it takes weights that have learnt to draw."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def created(created_embedded: Path) -> Path:
    return created_embedded
