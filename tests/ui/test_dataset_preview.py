"""Dataset previews on the server: run next to a job, are shown in pages, and can be used as concepts."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import threading
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.jobs import jobs
from dreambooth.runs import data_report
from dreambooth.settings import Concept, concept_values
from dreambooth.ui.dataset_preview import ALL, PER_PAGE, WITH_WARNINGS, DatasetPreviewController

SMALL = {"resolution": 64, "bucket_step": 32}


@pytest.fixture
def previews(page_controller) -> DatasetPreviewController:
    return DatasetPreviewController(page_controller)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(PER_PAGE + 5):
        noise = random.Random(number).randbytes(64 * 64 * 3)  # no near duplicates
        Image.frombytes("RGB", (64, 64), noise).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a toy" + ", a long tag" * (40 if number % 10 == 0 else 0))
    return folder


def finished(previews: DatasetPreviewController, started: tuple[str, str]) -> str:
    key, progress = started
    assert "data-heartbeat" in progress
    while previews.poll(key, 10) is not None:
        pass
    return key


def test_pages_and_filters(previews, folder):
    key = finished(previews, previews.start_for_folder("", None, f" {folder} ", SMALL))
    assert "65 images" in previews.summary(key) and "cut-off: 7" in previews.summary(key)
    first = previews.page(key, "", 0)
    assert (
        first.filters == [f"{ALL} (65)", f"{WITH_WARNINGS} (7)", "Warning: cut-off (7)"]
        and first.filter == f"{ALL} (65)"
    )
    assert first.gallery.count("<figure") == first.table.count("<tr>") - 1 == PER_PAGE
    assert "Page 1 of 2" in first.gallery and 'data-number="0"' in first.gallery
    for page in (1, 99):
        last = previews.page(key, first.filter, page)
        assert last.page == 1 and last.gallery.count("<figure") == 5 and 'data-number="64"' in last.gallery
    warned = previews.page(key, f"{WITH_WARNINGS} (7)", 0)
    assert warned.gallery.count("<figure") == warned.gallery.count("db_mark") == 7 and "<del" in warned.table
    assert previews.page(key, "no such choice", -3).page == 0


def test_an_image_is_shown_as_thumbnail_and_large(previews, folder, tmp_path):
    Image.new("RGB", (4000, 500), "red").save(folder / "65.jpg")
    key = finished(previews, previews.start_for_folder("", None, str(folder), SMALL))
    gallery = previews.page(key, "", 1).gallery
    sizes = []
    for html in (gallery, previews.large(key, "65")):
        jpeg = html.rpartition("data:image/jpeg;base64,")[2].partition('"')[0]
        sizes.append(Image.open(io.BytesIO(base64.b64decode(jpeg))).size)
    assert sizes == [(256, 32), (1280, 160)]
    assert "left: 43.7" in gallery  # a wide image is cropped to the square in its middle
    cached = list(previews.thumbnails.folder.glob("*.jpg"))
    models = previews.page_controller.host.folders().models
    assert len(cached) == 6 and all(path.is_relative_to(models) for path in cached)
    for nothing in ("", "66", "-1", "x", None):
        assert previews.large(key, nothing) == ""
    (folder / "65.jpg").unlink()
    assert "can’t be shown" in previews.page(key, "", 1).gallery


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_a_file_name_that_is_not_unicode_can_be_shown(previews, folder):
    name = os.fsdecode(b"caf\xe9 <b>.png")
    os.rename(folder / "0.png", folder / name)
    key = finished(previews, previews.start_for_folder("", None, str(folder), SMALL))
    shown = previews.page(key, "", 1)
    for html in (previews.summary(key), shown.gallery, shown.table, previews.large(key, "64")):
        assert "<b>.png" not in html
        json.dumps(html, ensure_ascii=False).encode("utf-8")
    assert r"caf\udce9 &lt;b&gt;.png" in shown.table


def test_a_preview_is_used_as_concepts(previews, folder, tmp_path):
    existing = [Concept(instance_data_dir="dogs", instance_token="sks"), Concept(), Concept()]
    values = [concept_values(concept) for concept in existing]
    with pytest.raises(UserError, match="Preview a folder first"):
        previews.use_as_concept("", None, values)
    key = finished(previews, previews.start_for_folder("", None, str(folder), SMALL))
    added, settings = previews.use_as_concept(key, None, values)
    assert [concept.instance_data_dir for concept in added] == ["dogs", str(folder)] and not settings
    (replaced,), _ = previews.use_as_concept(key, 0, values)
    assert (replaced.instance_data_dir, replaced.instance_token) == (str(folder), "sks")
    third, _ = previews.use_as_concept(key, 2, values)
    assert [bool(concept.instance_data_dir) for concept in third] == [True, False, True]
    (tmp_path / "c.json").write_text(json.dumps([{"instance_data_dir": "images", "num_repeats": 3}] * 2))
    key = finished(previews, previews.start_for_folder(key, None, str(tmp_path / "c.json"), SMALL))
    added, _ = previews.use_as_concept(key, None, values)
    assert [concept.num_repeats for concept in added] == [1, 3, 3]


def test_a_preview_runs_during_a_training_of_the_same_model(previews, mini, folder):
    release = threading.Event()
    previews.page_controller.job_runner.start("train", "mini", lambda *_: release.wait(60), model="mini")
    try:
        concept = concept_values(Concept(instance_data_dir=str(folder)))
        key = finished(previews, previews.start_for_concepts("", "mini", SMALL, [concept, concept_values(Concept())]))
        assert jobs.current.running
        assert "Memory" in previews.summary(key) and "known after the first steps" in previews.summary(key)
    finally:
        release.set()
        jobs.current.wait(60)


def test_stopped_previews_and_errors_are_shown(previews, folder, tmp_path, monkeypatch):
    expected = {
        "Enter the folder": previews.start_for_folder("", None, "  ", SMALL),
        "there is no such folder": previews.start_for_folder("", None, "/nowhere/<img src=x>", SMALL),
        "outside the range 64 to": previews.start_for_folder("", None, str(folder), {"resolution": 3}),
        "No concept has a folder yet": previews.start_for_concepts("", None, SMALL, [concept_values(Concept())]),
    }
    for problem, started in expected.items():
        summary = previews.summary(finished(previews, started))
        assert problem in summary and "<img" not in summary
        assert previews.page(started[0], "", 0).gallery == ""

    def endless(*_, **__):
        while True:
            _[4](1, 2, "checking images")

    monkeypatch.setattr(data_report, "preview_dataset", endless)
    key, _ = previews.start_for_folder("", None, str(folder), SMALL)
    while "checking images 1 of 2" not in (previews.poll(key, 0.01) or ""):
        pass
    previews.stop(key)
    assert previews.poll(key, 30) is None and "Stopped" in previews.summary(key)
    monkeypatch.setattr(data_report, "preview_dataset", lambda *_: {}["gone"])
    assert "KeyError" in previews.summary(finished(previews, previews.start_for_folder(key, None, str(folder), SMALL)))
    assert "has expired" in previews.summary(key)


def test_the_check_shows_the_same_table(page_controller, mini, folder):
    _, _, table = page_controller.check("mini", SMALL, [concept_values(Concept(instance_data_dir=str(folder)))])
    assert table.count("<tr>") == 66 and "<del" in table and "the caption is too long" in table
