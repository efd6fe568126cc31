"""Small models in published formats, made once, and pictures for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.captioning import tiny_models


@pytest.fixture(scope="session")
def onnx_tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tagger that says how red, green and blue a picture is. Not to be changed."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    return tiny_models.onnx_tagger(tmp_path_factory.mktemp("models") / "wd-tiny")


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """``images("a.png", ...)``: a folder with these, each of one colour by its name, or of noise."""

    def make(*names: str) -> Path:
        folder = tmp_path / "pictures"
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            make_image(path.stem).save(path)
        return folder

    return make


def make_image(name: str, size: tuple[int, int] = (40, 40)) -> Image.Image:
    colour = next((colour for colour in ("red", "lime", "blue", "white", "black") if colour in name), None)
    if colour:
        return Image.new("RGB", size, colour)
    noise = random.Random(name)
    return Image.frombytes("RGB", size, bytes(noise.randrange(256) for _ in range(3 * size[0] * size[1])))
