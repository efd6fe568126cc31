"""The Prepare form: dry run, preparation, undo, and their results as escaped HTML."""

from __future__ import annotations

import os
import sys
import time

import pytest
from PIL import Image

from dreambooth.jobs import jobs
from dreambooth.ui.preparation_controller import PreparationController


@pytest.fixture
def preparation(page_controller) -> PreparationController:
    return PreparationController(page_controller)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "<b>photos"
    folder.mkdir()
    for n in range(14):
        Image.effect_noise((96, 64), 50).convert("RGB").save(folder / f"<img src=x>{n}.png")
    (folder / "<script>.png").write_bytes(b"not an image")
    return folder


def test_dry_run_then_prepare_then_undo(preparation, page_controller, photos, done):
    done(preparation.dry_run(None, str(photos), {"crop": "smart", "fixed_size": "64x64"}))
    shown = preparation.result
    assert "Dry run: 14 images would be saved" in shown and "1 skipped" in shown
    assert shown.count("<figure>") == 12 and shown.count("data:image/jpeg;base64,") == 24
    assert shown.count("<tr>") == 15 and "&lt;img src=x&gt;3.png" in shown and "&lt;script&gt;.png" in shown
    assert "<img src=x" not in shown and "<script" not in shown and "<b>" not in shown
    assert preparation.prepared_folder == "" and [path.name for path in photos.parent.iterdir()] == ["<b>photos"]
    done(preparation.prepare(None, str(photos), {"mirror": "instead"}))
    assert "Prepared: 14 images" in preparation.result and preparation.prepared_folder.endswith("<b>photos-prepared")
    assert "Prepared: 14 images" in page_controller.page_state(None).status
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    done(preparation.prepare(None, str(photos), {"mirror": "instead", "in_place": True}))
    assert "Undo last restores them" in preparation.result
    done(preparation.undo(None, str(photos)))
    assert "restored 14 originals" in preparation.result
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode elsewhere")
def test_file_names_that_are_not_unicode_are_shown(preparation, page_controller, photos, done):
    for end in (b"", b"2"):
        Image.new("RGB", (8, 8)).save(os.fsdecode(os.fsencode(photos) + b"/\xff" + end + b".png"))
    done(preparation.prepare(None, str(photos), {"in_place": True, "rename": "{name} {n}"}))
    assert r"\udcff" in preparation.result and preparation.result.encode()
    done(preparation.undo(None, str(photos)))
    assert "restored 16 originals" in preparation.result


def test_errors_are_shown_and_a_preparation_can_be_cancelled(preparation, page_controller, photos, done):
    assert "Enter the folder" in preparation.dry_run(None, " ", {})
    assert "quality (Quality): 0 is outside the range 1 to 100" in preparation.prepare(
        None, str(photos), {"quality": 0}
    )
    done(preparation.prepare(None, str(photos), {"out": str(photos)}))
    assert "is inside the folder of the originals" in page_controller.page_state(None).status
    done(preparation.prepare(None, str(photos.with_name("gone")), {}))
    assert "there is no such folder" in page_controller.page_state(None).status
    for n in range(300):
        Image.effect_noise((256, 256), 50).save(photos / f"{n}.png")
    assert preparation.prepare(None, str(photos), {"mirror": "add copies"}) == ""
    while " of " not in page_controller.page_state(None).status:
        time.sleep(0.01)
    page_controller.job_runner.request("cancel")
    assert jobs.current.wait(60)
    assert "Canceled. No partial files remain." in page_controller.page_state(None).status
    assert [path.name for path in photos.parent.iterdir()] == ["<b>photos"]
