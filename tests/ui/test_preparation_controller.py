"""The form Prepare: what it starts, what it shows of it, and that nothing in it is taken for HTML."""

from __future__ import annotations

import os
import sys
import time

import pytest
from PIL import Image

from dreambooth.jobs import jobs
from dreambooth.ui.preparation_controller import PreparationController


@pytest.fixture
def preparer(page_controller) -> PreparationController:
    return PreparationController(page_controller)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "<b>photos"
    folder.mkdir()
    for n in range(14):
        Image.effect_noise((96, 64), 50).convert("RGB").save(folder / f"<img src=x>{n}.png")
    (folder / "<script>.png").write_bytes(b"no picture")
    return folder


def test_dry_run_then_prepare_then_undo(preparer, photos, done):
    done(preparer.dry_run(None, str(photos), {"crop": "smart", "fixed_size": "64x64"}))
    shown = preparer.outcome
    assert "Dry run, nothing is written: 14 pictures" in shown and "1 skipped" in shown
    assert shown.count("<figure>") == 12 and shown.count("data:image/jpeg;base64,") == 24
    assert shown.count("<tr>") == 15 and "&lt;img src=x&gt;3.png" in shown and "&lt;script&gt;.png" in shown
    assert "<img src=x" not in shown and "<script" not in shown and "<b>" not in shown
    assert preparer.destination == "" and [path.name for path in photos.parent.iterdir()] == ["<b>photos"]
    done(preparer.prepare(None, str(photos), {"mirror": "instead"}))
    assert "Prepared: 14 pictures" in preparer.outcome and preparer.destination.endswith("<b>photos-prepared")
    assert "Prepared: 14 pictures" in preparer.page_controller.look(None).status
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    done(preparer.prepare(None, str(photos), {"mirror": "instead", "in_place": True}))
    assert "Undo last brings them back" in preparer.outcome
    done(preparer.undo(None, str(photos)))
    assert "14 originals are back" in preparer.outcome
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_are_shown_all_the_same(preparer, photos, done):
    for end in (b"", b"2"):
        Image.new("RGB", (8, 8)).save(os.fsdecode(os.fsencode(photos) + b"/\xff" + end + b".png"))
    done(preparer.prepare(None, str(photos), {"in_place": True, "rename": "{name} {n}"}))
    assert r"\udcff" in preparer.outcome and preparer.outcome.encode()
    done(preparer.undo(None, str(photos)))
    assert "16 originals are back" in preparer.outcome


def test_what_cannot_be_done_is_a_line_and_long_work_can_be_cancelled(preparer, photos, done):
    assert "Give the folder" in preparer.dry_run(None, " ", {})
    assert "quality (Quality): 0 is outside the range 1 to 100" in preparer.prepare(None, str(photos), {"quality": 0})
    done(preparer.prepare(None, str(photos), {"out": str(photos)}))
    assert "lies in the folder of the originals" in preparer.page_controller.look(None).status
    done(preparer.prepare(None, str(photos.with_name("gone")), {}))
    assert "there is no such folder" in preparer.page_controller.look(None).status
    for n in range(300):
        Image.effect_noise((256, 256), 50).save(photos / f"{n}.png")
    assert preparer.prepare(None, str(photos), {"mirror": "add copies"}) == ""
    while "pictures" not in preparer.page_controller.look(None).status:
        time.sleep(0.01)
    preparer.page_controller.job_runner.tell("cancel")
    assert jobs.current.wait(60)
    assert "Canceled. No partial files remain." in preparer.page_controller.look(None).status
    assert [path.name for path in photos.parent.iterdir()] == ["<b>photos"]
