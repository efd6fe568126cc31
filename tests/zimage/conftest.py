from __future__ import annotations

import pytest

from tests.flow_models.fixtures import concept, files, model, session  # noqa: F401
from tests.zimage.files import Z_IMAGE


@pytest.fixture
def family():
    return Z_IMAGE
