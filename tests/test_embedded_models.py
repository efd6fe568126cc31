"""The embedded models follow prompts, also those with combinations that their training didn't have."""

from __future__ import annotations

import pytest
from PIL import Image

from dreambooth import actions, embedded
from dreambooth.demo import plain
from dreambooth.embedded.checker import Checker
from dreambooth.sampling.generate import SampleRequest
from dreambooth.settings import Folders, ModelFolder

pytestmark = pytest.mark.nightly

# A third of the triples that tools/mini_model/render.py holds out.
HELD_OUT = [("circle", "red", "black"), ("circle", "yellow", "blue"), ("circle", "white", "black"),
            ("square", "purple", "yellow"), ("triangle", "yellow", "orange"), ("star", "green", "purple"),
            ("star", "orange", "red"), ("heart", "red", "green"), ("heart", "yellow", "white"),
            ("heart", "white", "green"), ("ring", "green", "black"), ("ring", "purple", "black"),
            ("cross", "blue", "yellow")]  # fmt: skip


@pytest.mark.parametrize("family", embedded.MODELS)
def test_held_out_combinations_are_drawn_as_prompted(family, models_dir, tmp_path):
    folders = Folders(models_dir)
    actions.create(folders, "mini", embedded.MODELS[family].checkpoint)
    requests = [
        SampleRequest(plain(*triple), seed=number, steps=20, cfg=4.0, width=128, height=128)
        for number, triple in enumerate(HELD_OUT)
    ]
    paths = actions.sample(ModelFolder(folders, "mini"), requests, tmp_path / "samples", batch_size=13)
    images = [Image.open(path).convert("RGB") for path in paths]
    assert sum(Checker.load().matches_prompts(images, HELD_OUT)) >= 0.9 * len(HELD_OUT)
