from __future__ import annotations

import pytest

from tests.flow_models.fixtures import concept, files, model, session  # noqa: F401
from tests.flux.files import FLUX1


@pytest.fixture
def family():
    return FLUX1
