"""What the Captions form shows and does, behind the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dreambooth.captions.history import Journal
from dreambooth.captions.writing import write_captions
from dreambooth.jobs import jobs
from dreambooth.settings.caption_edits import AddTags, MergeTags, SortTags
from dreambooth.ui import caption_controller
from dreambooth.ui.caption_controller import CaptionController

EVERYWHERE = {"with_tags": "", "without_tags": ""}


@pytest.fixture
def captions(page_controller) -> CaptionController:
    return CaptionController(page_controller)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "<b>pictures"
    folder.mkdir()
    for number, text in enumerate(["<script>x</script>, hat", "hat, 'q' \"r\"", "solo"], 1):
        Image.new("RGB", (8, 8)).save(folder / f"<i>{number}.png")
        (folder / f"<i>{number}.txt").write_text(text, encoding="utf-8")
    return folder


def texts(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]


def test_all_that_people_wrote_is_escaped(captions, folder):
    """Also names that are no text at all, as old archives leave them."""
    (folder / "caf\udce9.png").touch()
    parts = captions.show("", str(folder))
    key = parts["key"]
    parts |= captions.pick(key, "1 tag <script>x</script>", "")
    parts |= captions.pick(key, "2 all ", "") | captions.pick(key, "3 open 0", "")
    parts |= captions.preview(key, AddTags, {"tags": "<u>"}, EVERYWHERE)
    parts |= captions.apply(key, parts["text"])
    for name, value in parts.items():
        assert not any(tag in str(value) for tag in ("<script", "<i>", "<u>", "<b>pic")) or name in (
            "ticked",
            "text",
            "undo",
        )
        str(value).encode("utf-8")
    assert 'data-db-value="hat, &#x27;' not in parts["tags"] and "&#x27;q&#x27; &quot;r&quot;" in parts["tags"]


def test_thousands_of_tags_stay_few_on_the_page(captions, folder):
    (folder / "<i>3.txt").write_text(", ".join(f"tag {n}" for n in range(5000)))
    parts = captions.show("", str(folder))
    assert parts["tags"].count("data-db-pick") == 200 and "and 4,803 more" in parts["tags"]
    found = captions.filter(parts["key"], "tag 499", "by name")["tags"]
    assert found.count("data-db-pick") == 11 and found.index("tag 4990") > found.index("tag 499 ")


def test_words_that_are_not_saved_yet_stay(captions, folder):
    key = captions.show("", str(folder))["key"]
    assert captions.pick(key, "1 open 0", "")["text"] == "<script>x</script>, hat"
    captions.preview(key, MergeTags, {"tags": "hat", "into": "cap"}, EVERYWHERE)
    done = captions.apply(key, "typed, not saved")
    assert "text" not in done and texts(folder)[0] == "<script>x</script>, cap"
    assert "Changed 1 file" in captions.turn(key, 1, "typed, not saved")["said"]
    assert texts(folder)[0] == "typed, not saved"
    assert captions.step(key, "undo", "cap, 'q' \"r\"")["undo"].startswith("Undo: merge hat")
    undone = captions.step(key, "undo", "cap, 'q' \"r\"")
    assert undone["text"] == "hat, 'q' \"r\""  # nothing was typed there: it follows


def test_what_was_broken_off_is_told(captions, folder):
    before = texts(folder)
    write_captions(folder, {path: "x" for path in folder.glob("*.txt")}, "tagged")
    (folder / "<i>1.txt").write_text(before[0])
    Journal(folder).place(0, 1)  # as a kill leaves it
    parts = captions.show("", str(folder))
    assert "This edit was broken off: tagged. Redo finishes it, Undo takes it back." in parts["said"]
    assert parts["undo"] == "Undo: tagged (3)" and parts["redo"] == "Redo: tagged (3)"
    captions.step(parts["key"], "undo", "")
    assert texts(folder) == before


def test_what_takes_long_is_work_that_can_be_cancelled(captions, folder, page_controller, monkeypatch):
    monkeypatch.setattr(caption_controller, "MANY", 2)
    key = captions.show("", str(folder))["key"]
    before = texts(folder)
    captions.preview(key, AddTags, {"tags": "zwx"}, EVERYWHERE)
    start = jobs.start
    monkeypatch.setattr(
        jobs, "start", lambda what, work: _cancelled(start(what, lambda controls: _late(controls, work)))
    )
    assert "nothing was changed" in captions.apply(key, "")["said"]
    monkeypatch.setattr(jobs, "start", start)
    assert texts(folder) == before
    captions.preview(key, AddTags, {"tags": "zwx"}, EVERYWHERE)
    assert "Changed 3 files" in captions.apply(key, "")["said"]
    assert all(text.startswith("zwx, ") for text in texts(folder))


def _late(controls, work):
    while not controls.cancelled:
        pass
    return work(controls)


def _cancelled(job):
    job.controls.cancel()
    return job


def test_bad_input_is_a_line(captions, folder):
    assert "Give the folder" in captions.show("", " ")["said"]
    assert "there is no such folder" in captions.show("", str(folder / "<x>"))["said"]
    assert "Show the captions of a folder first" in captions.apply("", "")["said"]
    key = captions.show("", str(folder))["key"]
    assert "Preview an edit first" in captions.apply(key, "")["said"]
    assert "Choose a picture first" in captions.save(key, "x")["said"]
    for picked in ("", "1", "1 open 99", "1 open -1", "1 page x", "1 tag nobody", "junk"):
        assert "said" not in captions.pick(key, picked, "")
    assert "keep_first" in captions.preview(key, SortTags, {"keep_first": -1}, EVERYWHERE)["said"]
