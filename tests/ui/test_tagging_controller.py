"""The Auto-caption form: trial and captions for all, with their results."""

from __future__ import annotations

import time

import pytest
from PIL import Image

from dreambooth import actions
from dreambooth.jobs import jobs
from dreambooth.ui.tagging_controller import TaggingController
from tests.captioning import tiny_models


@pytest.fixture
def tagging(page_controller, models_dir) -> TaggingController:
    for library in ("onnx", "onnxruntime"):
        pytest.importorskip(library)
    tiny_models.onnx_tagger(models_dir / "taggers" / "wd-tiny")
    return TaggingController(page_controller)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    for number in range(10):
        Image.new("RGB", (20, 20), "red").save(made / f"{number:02}<b>.png")
    (made / "00<b>.txt").write_text("a hill")
    (made / "zz.png").write_bytes(b"<i>not an image")
    return made


def test_trial_on_a_few_images_then_captions_for_all(tagging, page_controller, folder, done):
    assert "taggers/wd-tiny" in page_controller.file_choices.titles("taggers")
    given = {"model": "taggers/wd-tiny", "trigger_word": "zwx"}
    done(tagging.try_some("", str(folder), given))
    shown = tagging.result
    assert shown.count("<figure>") == 8 and shown.count("data:image/jpeg;base64,") == 8
    assert "zwx, red picture" in shown and "red_picture <small>100%</small>" in shown and "<b>00<b>" not in shown
    assert "00&lt;b&gt;.png" in shown  # also the one with a caption, since nothing is written
    assert len(list(folder.glob("*.txt"))) == 1 and "nothing was written" in page_controller.page_state("").status
    done(tagging.tag_all("", str(folder), given))
    status = page_controller.page_state("").status
    assert "9 captions written, 1 skipped (had captions), 1 warning" in status
    shown = tagging.result
    assert "zz.png: is not a readable image" in shown and "<figure>" not in shown
    assert (folder / "01<b>.txt").read_text() == "zwx, red picture" and (folder / "00<b>.txt").read_text() == "a hill"


def test_errors_are_shown(tagging, page_controller, folder, done):
    model = {"model": "taggers/wd-tiny"}
    expected = {
        "Enter the folder with the images": tagging.tag_all("", " ", model),
        "Choose a tagging or captioning model": tagging.try_some("", str(folder), {"model": ""}),
        "batch_size (Batch size): 0 is outside": tagging.tag_all("", str(folder), {**model, "batch_size": 0}),
    }
    for problem, message in expected.items():
        assert problem in message
    done(tagging.tag_all("", str(folder), {"model": "taggers/gone:"}))
    assert "Model taggers/gone: not found" in page_controller.page_state("").status
    assert tagging.result == ""


def test_cancelled_in_the_middle(tagging, page_controller, folder, monkeypatch):
    def endless(*_, progress, **__):
        while True:
            progress(1, 2, "images")
            time.sleep(0.01)

    monkeypatch.setattr(actions.captions, "tag", endless)
    assert tagging.tag_all("", str(folder), {"model": "x"}) == ""
    while "Captioning images: images 1 of 2" not in page_controller.page_state("").status:
        time.sleep(0.01)
    assert tagging.result == ""
    assert "still running" in tagging.try_some("", str(folder), {"model": "x"})
    page_controller.job_runner.request("cancel")
    assert jobs.current.wait(30) and "Canceled" in page_controller.page_state("").status
