"""The Images tab in the browser, with every Gradio: preview a folder, use it as a concept, train it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

SUBJECT = Path(__file__).resolve().parents[2] / "dreambooth" / "embedded" / "subject"


@pytest.fixture
def images(tmp_path) -> Path:
    """Six images, one of them wide and with a caption that is too long."""
    folder = Path(shutil.copytree(SUBJECT, tmp_path / "my toys"))
    Image.open(folder / "1.png").resize((256, 100)).save(folder / "1.png")
    (folder / "1.txt").write_text("a zwx toy, " + ", ".join(f"detail number {n}" for n in range(40)))
    return folder


def test_from_a_folder_to_a_run(served, visitor, images, tmp_path):
    visitor.create("previewed")
    visitor.sees_value("model_name", "previewed")
    visitor.tab("Settings")
    visitor.sees_value("num_train_epochs", "300")  # the settings of the embedded model have arrived
    visitor.open_accordion("db_group_settings_image_processing")
    visitor.open_accordion("db_group_settings_intervals")
    visitor.fill(resolution=64, num_train_epochs=8)  # longer than the warm-up

    visitor.tab("Images")
    visitor.fill(pictures_folder=images.parent / "nowhere")
    visitor.press("look")
    visitor.sees("look_said", "there is no such folder")
    visitor.press("look_use")
    visitor.sees("look_use_said", "Preview a folder first")
    visitor.fill(pictures_folder=images)
    visitor.press("look")
    visitor.sees("look_said", "6 images")
    visitor.sees("look_said", "8 epochs · 24 steps")
    visitor.sees("look_gallery", "Page 1 of 1")
    page = visitor.page
    assert page.locator(".db_picture").count() == 6
    page.wait_for_function("[...document.querySelectorAll('.db_picture img')].every((one) => one.naturalWidth > 0)")
    cut = page.evaluate(
        "() => { const [frame, crop] = ['.db_frame', '.db_crop'].map((one) =>"
        " document.querySelector(`.db_picture ${one}`).getBoundingClientRect());"
        " return [crop.width / frame.width, crop.height / frame.height] }"
    )
    assert cut == pytest.approx([100 / 256, 1], abs=0.02)  # the square in the middle of the wide image
    visitor.screenshot(tmp_path / "preview.png")

    page.locator(".db_picture").first.click()
    page.wait_for_selector(".db_large img")
    assert "detail number 39" in page.inner_text(".db_large del")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.db_large_words')?.innerText.includes('2.png')")
    visitor.screenshot(tmp_path / "large.png")
    page.keyboard.press("Escape")
    page.wait_for_selector(".db_large", state="detached")
    page.locator(".db_picture").nth(2).click()
    page.click(".db_close")
    page.wait_for_selector(".db_large", state="detached")

    visitor.choose("look_only", "Warning: cut-off (1)")
    page.wait_for_function("document.querySelectorAll('.db_picture').length === 1")
    visitor.choose("look_use_as", "Concept 1")
    visitor.press("look_use")
    visitor.sees("look_use_said", "Updated Concept 1. Click Save Params to keep it.")
    visitor.tab("Concepts")
    visitor.sees_value("c1_instance_data_dir", str(images))
    visitor.open_accordions()
    visitor.fill(c1_n_save_sample=0)
    visitor.press("check")
    visitor.sees("captions", "the caption is too long")
    visitor.tab("Images")
    visitor.press("look_concepts")
    visitor.sees("look_said", "Memory")
    visitor.press("train")
    visitor.sees("status", "Training finished after 24 steps")
    visitor.press("look_concepts")  # the speed of the last run is known now
    visitor.sees("look_said", "at the last run's speed")
    assert not visitor.problems
