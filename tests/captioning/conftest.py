"""Small models in published formats, created once, and images for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.captioning import tiny_models


@pytest.fixture(scope="session")
def onnx_tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tagger whose scores are the mean red, green and blue of an image. Must not be changed."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return tiny_models.onnx_tagger(tmp_path_factory.mktemp("models") / "wd-tiny")


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """``images("a.png", ...)``: a folder with these images, each in the color of its name, or noise."""

    def make(*names: str) -> Path:
        folder = tmp_path / "images"
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            make_image(path.stem).save(path)
        return folder

    return make


def make_image(name: str, size: tuple[int, int] = (40, 40)) -> Image.Image:
    color = next((color for color in ("red", "lime", "blue", "white", "black") if color in name), None)
    if color:
        return Image.new("RGB", size, color)
    noise = random.Random(name)
    return Image.frombytes("RGB", size, bytes(noise.randrange(256) for _ in range(3 * size[0] * size[1])))
