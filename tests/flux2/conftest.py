from __future__ import annotations

import pytest

from tests.flow_models.fixtures import concept, files, model, session  # noqa: F401
from tests.flux2.files import KLEIN


@pytest.fixture
def family():
    return KLEIN
