"""The page knows a family as soon as it is registered: creates, summarizes, limits and trains it."""

from __future__ import annotations

import dataclasses
import re

import pytest
from PIL import Image

from dreambooth.settings import Concept, Settings
from dreambooth.ui.page import Page
from tests.toy_family import registered, write_files


@pytest.fixture
def page(page_controller):
    with registered():
        page = Page(page_controller)
        page.blocks()
        yield page


def _create(page, files, name):
    options = page.model.options
    chosen = {"text_encoder": str(files.text_encoder), "vae": str(files.vae), "model_type": "toy"}
    values = [chosen.get(key, control.value) for key, control in options.controls.items()]
    return page._create(None, name, str(files.denoiser), *values)[0]


def test_created_limited_and_trained_on_the_page(page, page_controller, done, tmp_path):
    done(_create(page, write_files(tmp_path, prefix=""), "toy"))
    state = page_controller.page_state("toy")
    assert "Toy Flow, flow matching, 64 px" in state.model_summary
    settings, _ = page_controller.parameters("toy")
    values = dataclasses.asdict(settings)
    sheet = page._disabled("toy", *(values[key] for key in page.fields.dependencies()))
    disabled = {name for listed in re.findall(r'data-ids="(.*?)"', sheet) for name in listed.split()}
    assert disabled >= {"db_clip_skip", "db_min_snr_gamma", "db_attention", "db_use_lora_extended"}
    assert not disabled & {"db_resolution_shift", "db_timestep_shift", "db_use_lora"}
    assert "its text encoder has no clip skip" in page_controller.refused_value("toy", "clip_skip", 2)
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 80), "red").save(images / "a zwx toy.png")
    concept = dataclasses.asdict(Concept(instance_data_dir=str(images), n_save_sample=1, save_infer_steps=2))
    quick = dataclasses.asdict(dataclasses.replace(settings, use_lora=True, max_train_steps=2, bucket_step=16))
    done(page_controller.train("toy", quick, [concept]))
    model = page_controller.model("toy")
    assert model.load().info.revision == 2 and list(model.samples.glob("*.png"))
    assert Settings().scheduler == "DDIM" and model.load().settings.scheduler == "EulerDiscrete"
