"""A model of Z-Image from three files, and images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dreambooth.settings import Concept
from tests.zimage import files as zimage
from tests.zimage.files import create


@pytest.fixture
def files(tmp_path):
    return zimage.write(tmp_path)


@pytest.fixture
def model(tmp_path, files):
    return create(tmp_path, files)


@pytest.fixture
def concept(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64 + 16 * (i // 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"a zwx toy {'seen ' * i}{i}.png")
    return Concept(instance_data_dir=str(folder), n_save_sample=1, save_infer_steps=2)
