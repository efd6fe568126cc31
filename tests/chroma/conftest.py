from __future__ import annotations

import pytest

from tests.chroma.files import CHROMA
from tests.flow_models.fixtures import concept, files, model, session  # noqa: F401


@pytest.fixture
def family():
    return CHROMA
