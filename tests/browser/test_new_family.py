"""The page with a family that the package does not know: created from three files, limited, trained."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.browser.conftest import SINGLE_PROCESS, serving
from tests.browser.gradios import python_with
from tests.browser.visitor import Visitor
from tests.toy_family import write_files

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("gradio", SINGLE_PROCESS)
def test_from_three_files_to_a_preview(browser, tmp_path, gradio):
    files = write_files(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (80, 64), "red").save(images / "a zwx toy.png")
    with serving(tmp_path, python_with(gradio), "tests.toy_family") as page:
        visitor = Visitor(browser, page.url)
        visitor.tab("Create")
        visitor.open_accordions()
        visitor.fill(new_model_src=files.denoiser, new_model_name="toy")
        visitor.fill(text_encoder=files.text_encoder, vae=files.vae)
        visitor.press("create")
        visitor.sees("status", "Created toy (Toy Flow)")
        visitor.sees_value("filled", "toy")
        visitor.sees("facts", "Toy Flow, flow matching, 64 px")
        visitor.tab("Settings")
        visitor.open_accordions()
        visitor.sees_disabled("clip_skip")
        visitor.sees_disabled("min_snr_gamma")
        visitor.sees_disabled("timestep_shift", disabled=False)
        visitor.fill(max_train_steps=3, bucket_step=16)
        visitor.tab("Concepts")
        visitor.open_accordions()
        visitor.fill(c1_instance_data_dir=images, c1_n_save_sample=1, c1_save_infer_steps=2)
        visitor.press("train")
        visitor.sees("status", "Training finished after 3 steps")
        visitor.page.wait_for_selector("#db_gallery img")
        assert not visitor.problems
        visitor.close()
