"""The Look form's server side: looks go on beside anything else, pages hold so many, what was found can be used."""

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

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.jobs import jobs
from dreambooth.settings import Concept, concept_values
from dreambooth.ui.dataset_preview import ALL, NOTED, PER_PAGE, DatasetPreviewController

SMALL = {"resolution": 64, "bucket_step": 32}


@pytest.fixture
def looking(page_controller) -> DatasetPreviewController:
    return DatasetPreviewController(page_controller)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(PER_PAGE + 5):
        noise = random.Random(number).randbytes(64 * 64 * 3)  # no two look alike
        Image.frombytes("RGB", (64, 64), noise).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a toy" + ", a long tag" * (40 if number % 10 == 0 else 0))
    return folder


def ended(looking: DatasetPreviewController, started: tuple[str, str]) -> str:
    key, said = started
    assert "data-beat" in said
    while looking.follow(key, 10) is not None:
        pass
    return key


def test_pages_and_filters(looking, folder):
    key = ended(looking, looking.at_folder("", None, f" {folder} ", SMALL))
    assert "65 pictures" in looking.said(key) and "cut-off: 7" in looking.said(key)
    first = looking.page(key, "", 0)
    assert first.choices == [f"{ALL} (65)", f"{NOTED} (7)", "Note: cut-off (7)"] and first.chosen == f"{ALL} (65)"
    assert first.gallery.count("<figure") == first.table.count("<tr>") - 1 == PER_PAGE
    assert "Page 1 of 2" in first.gallery and 'data-number="0"' in first.gallery
    for page in (1, 99):
        last = looking.page(key, first.chosen, page)
        assert last.page == 1 and last.gallery.count("<figure") == 5 and 'data-number="64"' in last.gallery
    noted = looking.page(key, f"{NOTED} (7)", 0)
    assert noted.gallery.count("<figure") == noted.gallery.count("db_mark") == 7 and "<del" in noted.table
    assert looking.page(key, "no such choice", -3).page == 0


def test_a_picture_is_shown_small_and_large(looking, folder, tmp_path):
    Image.new("RGB", (4000, 500), "red").save(folder / "65.jpg")
    key = ended(looking, looking.at_folder("", None, str(folder), SMALL))
    gallery = looking.page(key, "", 1).gallery
    sizes = []
    for html in (gallery, looking.large(key, "65")):
        jpeg = html.rpartition("data:image/jpeg;base64,")[2].partition('"')[0]
        sizes.append(Image.open(io.BytesIO(base64.b64decode(jpeg))).size)
    assert sizes == [(256, 32), (1280, 160)]
    assert "left: 43.7" in gallery  # of a picture as wide as this one, the square in the middle stays
    kept = list(looking.thumbnails.folder.glob("*.jpg"))
    assert len(kept) == 6 and all(path.is_relative_to(looking.page_controller.host.folders().models) for path in kept)
    for nothing in ("", "66", "-1", "x", None):
        assert looking.large(key, nothing) == ""
    (folder / "65.jpg").unlink()
    assert "can’t be shown" in looking.page(key, "", 1).gallery


@pytest.mark.skipif(os.name == "nt", reason="names there are text")
def test_a_name_of_no_script_can_be_sent_to_a_page(looking, folder):
    name = os.fsdecode(b"caf\xe9 <b>.png")
    os.rename(folder / "0.png", folder / name)
    key = ended(looking, looking.at_folder("", None, str(folder), SMALL))
    shown = looking.page(key, "", 1)
    for html in (looking.said(key), shown.gallery, shown.table, looking.large(key, "64")):
        assert "<b>.png" not in html
        json.dumps(html, ensure_ascii=False).encode("utf-8")
    assert "caf? &lt;b&gt;.png" in shown.table


def test_what_was_found_is_used(looking, folder, tmp_path):
    there = [Concept(instance_data_dir="dogs", instance_token="sks"), Concept(), Concept()]
    given = [concept_values(concept) for concept in there]
    with pytest.raises(UserError, match="Look at a folder first"):
        looking.use("", None, given)
    key = ended(looking, looking.at_folder("", None, str(folder), SMALL))
    added, settings = looking.use(key, None, given)
    assert [concept.instance_data_dir for concept in added] == ["dogs", str(folder)] and not settings
    (replaced,), _ = looking.use(key, 0, given)
    assert (replaced.instance_data_dir, replaced.instance_token) == (str(folder), "sks")
    third, _ = looking.use(key, 2, given)
    assert [bool(concept.instance_data_dir) for concept in third] == [True, False, True]
    (tmp_path / "c.json").write_text(json.dumps([{"instance_data_dir": "pictures", "num_repeats": 3}] * 2))
    key = ended(looking, looking.at_folder(key, None, str(tmp_path / "c.json"), SMALL))
    added, _ = looking.use(key, None, given)
    assert [concept.num_repeats for concept in added] == [1, 3, 3]


def test_beside_a_training_with_the_models_own_figures(looking, mini, folder):
    going_on = threading.Event()
    looking.page_controller.job_runner.start("train", "mini", lambda *_: going_on.wait(60), model="mini")
    try:
        concept = concept_values(Concept(instance_data_dir=str(folder)))
        key = ended(looking, looking.at_concepts("", "mini", SMALL, [concept, concept_values(Concept())]))
        assert jobs.current.running
        assert "Memory" in looking.said(key) and "known after the first steps" in looking.said(key)
    finally:
        going_on.set()
        jobs.current.wait(60)


def test_stopped_and_what_cannot_be_seen_is_a_line(looking, folder, tmp_path, monkeypatch):
    refused = {
        "Choose the folder": looking.at_folder("", None, "  ", SMALL),
        "there is no such folder": looking.at_folder("", None, "/nowhere/<img src=x>", SMALL),
        "outside 64 to": looking.at_folder("", None, str(folder), {"resolution": 3}),
        "There is no concept with a folder": looking.at_concepts("", None, SMALL, [concept_values(Concept())]),
    }
    for why, started in refused.items():
        said = looking.said(ended(looking, started))
        assert why in said and "<img" not in said
        assert looking.page(started[0], "", 0).gallery == ""

    def endless(*_, **__):
        while True:
            _[4](1, 2, "checking pictures")

    monkeypatch.setattr(actions.images, "look", endless)
    key, _ = looking.at_folder("", None, str(folder), SMALL)
    while "checking pictures 1 of 2" not in (looking.follow(key, 0.01) or ""):
        pass
    looking.stop(key)
    assert looking.follow(key, 30) is None and "Stopped" in looking.said(key)
    monkeypatch.setattr(actions.images, "look", lambda *_: {}["gone"])
    assert "KeyError" in looking.said(ended(looking, looking.at_folder(key, None, str(folder), SMALL)))
    assert "no longer kept" in looking.said(key)


def test_the_check_shows_the_same_table(page_controller, mini, folder):
    _, _, table = page_controller.check("mini", SMALL, [concept_values(Concept(instance_data_dir=str(folder)))])
    assert table.count("<tr>") == 66 and "<del" in table and "its caption is too long" in table
