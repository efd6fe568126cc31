"""The form for captions by machine does what it says, and shows what came of it."""

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
    made = tmp_path / "pictures"
    made.mkdir()
    for number in range(10):
        Image.new("RGB", (20, 20), "red").save(made / f"{number:02}<b>.png")
    (made / "00<b>.txt").write_text("a hill")
    (made / "zz.png").write_bytes(b"<i>no picture")
    return made


def test_tried_on_a_few_then_written_for_all(tagging, folder, done):
    assert "taggers/wd-tiny" in tagging.page_controller.file_choices.titles("taggers")
    given = {"model": "taggers/wd-tiny", "trigger_word": "zwx"}
    done(tagging.try_some("", str(folder), given))
    shown = tagging.outcome
    assert shown.count("<figure>") == 8 and shown.count("data:image/jpeg;base64,") == 8
    assert "zwx, red picture" in shown and "red_picture <small>100%</small>" in shown and "<b>00<b>" not in shown
    assert "00&lt;b&gt;.png" in shown  # the one with a caption too: nothing is written
    assert len(list(folder.glob("*.txt"))) == 1 and "nothing was written" in tagging.page_controller.look("").status
    done(tagging.tag_all("", str(folder), given))
    status = tagging.page_controller.look("").status
    assert "9 captions written, 1 pictures had one, 1 remarks" in status
    shown = tagging.outcome
    assert "zz.png: is no picture" in shown and "<figure>" not in shown
    assert (folder / "01<b>.txt").read_text() == "zwx, red picture" and (folder / "00<b>.txt").read_text() == "a hill"


def test_what_cannot_be_done_is_a_line(tagging, folder, done):
    model = {"model": "taggers/wd-tiny"}
    refused = {
        "Give the folder with the pictures": tagging.tag_all("", " ", model),
        "Choose a tagger or captioner": tagging.try_some("", str(folder), {"model": ""}),
        "batch_size (Batch size): 0 is outside": tagging.tag_all("", str(folder), {**model, "batch_size": 0}),
    }
    for said, answer in refused.items():
        assert said in answer
    done(tagging.tag_all("", str(folder), {"model": "taggers/gone:"}))
    assert "There is no model taggers/gone: here" in tagging.page_controller.look("").status
    assert tagging.outcome == ""


def test_cancelled_in_the_middle(tagging, folder, monkeypatch):
    def endless(*_, progress, **__):
        while True:
            progress(1, 2, "pictures")
            time.sleep(0.01)

    monkeypatch.setattr(actions.captions, "tag", endless)
    assert tagging.tag_all("", str(folder), {"model": "x"}) == ""
    while "Tagging pictures: pictures 1 of 2" not in tagging.page_controller.look("").status:
        time.sleep(0.01)
    assert tagging.outcome == ""
    assert "still running" in tagging.try_some("", str(folder), {"model": "x"})
    tagging.page_controller.job_runner.tell("cancel")
    assert jobs.current.wait(30) and "Cancelled" in tagging.page_controller.look("").status
