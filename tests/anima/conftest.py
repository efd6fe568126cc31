"""A model of Anima from three files, and images."""

from __future__ import annotations

import pytest

from tests.anima import files as anima
from tests.zimage.conftest import concept  # noqa: F401
from tests.zimage.files import create


@pytest.fixture
def files(tmp_path):
    return anima.write(tmp_path)


@pytest.fixture
def model(tmp_path, files):
    return create(tmp_path, files)
