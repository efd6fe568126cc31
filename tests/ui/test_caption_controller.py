"""Actions behind the Captions form, and the HTML it shows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.captions.history import EditHistory
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
    folder = tmp_path / "<b>images"
    folder.mkdir()
    for number, text in enumerate(["<script>x</script>, hat", "hat, 'q' \"r\"", "solo"], 1):
        Image.new("RGB", (8, 8)).save(folder / f"<i>{number}.png")
        (folder / f"<i>{number}.txt").write_text(text, encoding="utf-8")
    return folder


def texts(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]


def test_users_texts_are_escaped(captions, folder):
    """Also file names that are not Unicode, as old archives may contain."""
    (folder / "caf\udce9.png").touch()
    parts = captions.show("", str(folder))
    key = parts["key"]
    parts |= captions.pick(key, "1 tag <script>x</script>", "")
    parts |= captions.pick(key, "2 all ", "") | captions.pick(key, "3 open 0", "")
    parts |= captions.preview(key, AddTags, {"tags": "<u>"}, EVERYWHERE)
    parts |= captions.apply(key, parts["text"])
    for name, value in parts.items():
        assert not any(tag in str(value) for tag in ("<script", "<i>", "<u>", "<b>images")) or name in (
            "selected_tags",
            "text",
            "undo",
        )
        str(value).encode("utf-8")
    assert 'data-db-value="hat, &#x27;' not in parts["tags"] and "&#x27;q&#x27; &quot;r&quot;" in parts["tags"]


def test_only_some_of_thousands_of_tags_are_shown(captions, folder):
    (folder / "<i>3.txt").write_text(", ".join(f"tag {n}" for n in range(5000)))
    parts = captions.show("", str(folder))
    assert parts["tags"].count("data-db-pick") == 200 and "and 4,803 more" in parts["tags"]
    found = captions.filter(parts["key"], "tag 499", "by name")["tags"]
    assert found.count("data-db-pick") == 11 and found.index("tag 4990") > found.index("tag 499 ")


def test_unsaved_text_is_preserved(captions, folder):
    key = captions.show("", str(folder))["key"]
    assert captions.pick(key, "1 open 0", "")["text"] == "<script>x</script>, hat"
    captions.preview(key, MergeTags, {"tags": "hat", "into": "cap"}, EVERYWHERE)
    done = captions.apply(key, "typed, not saved")
    assert "text" not in done and texts(folder)[0] == "<script>x</script>, cap"
    assert "Changed 1 file" in captions.turn(key, 1, "typed, not saved")["message"]
    assert texts(folder)[0] == "typed, not saved"
    assert captions.step(key, "undo", "cap, 'q' \"r\"")["undo"].startswith("Undo: merge hat")
    undone = captions.step(key, "undo", "cap, 'q' \"r\"")
    assert undone["text"] == "hat, 'q' \"r\""  # nothing was typed, so the editor is updated


def test_an_interrupted_edit_is_shown(captions, folder):
    before = texts(folder)
    write_captions(folder, {path: "x" for path in folder.glob("*.txt")}, "tagged")
    (folder / "<i>1.txt").write_text(before[0])
    EditHistory(folder).set_position(0, 1)  # as a kill leaves it
    parts = captions.show("", str(folder))
    assert "This edit was interrupted: tagged. Redo completes it, Undo reverts it." in parts["message"]
    assert parts["undo"] == "Undo: tagged (3)" and parts["redo"] == "Redo: tagged (3)"
    captions.step(parts["key"], "undo", "")
    assert texts(folder) == before


def test_a_large_edit_is_a_job_that_can_be_cancelled(captions, folder, page_controller, monkeypatch):
    monkeypatch.setattr(caption_controller, "MANY_FILES", 2)
    key = captions.show("", str(folder))["key"]
    before = texts(folder)
    captions.preview(key, AddTags, {"tags": "zwx"}, EVERYWHERE)
    start = jobs.start
    monkeypatch.setattr(
        jobs, "start", lambda what, work: _cancelled(start(what, lambda controls: _late(controls, work)))
    )
    assert "nothing was changed" in captions.apply(key, "")["message"]
    monkeypatch.setattr(jobs, "start", start)
    assert texts(folder) == before
    captions.preview(key, AddTags, {"tags": "zwx"}, EVERYWHERE)
    assert "Changed 3 files" in captions.apply(key, "")["message"]
    assert all(text.startswith("zwx, ") for text in texts(folder))


def _late(controls, work):
    while not controls.cancelled:
        pass
    return work(controls)


def _cancelled(job):
    job.controls.cancel()
    return job


def test_errors_are_shown(captions, folder):
    assert "Enter the folder" in captions.show("", " ")["message"]
    assert "there is no such folder" in captions.show("", str(folder / "<x>"))["message"]
    assert "Show the captions of a folder first" in captions.apply("", "")["message"]
    key = captions.show("", str(folder))["key"]
    assert "Preview an edit first" in captions.apply(key, "")["message"]
    assert "Choose an image first" in captions.save(key, "x")["message"]
    for picked in ("", "1", "1 open 99", "1 open -1", "1 page x", "1 tag nobody", "junk"):
        assert "message" not in captions.pick(key, picked, "")
    assert "keep_first" in captions.preview(key, SortTags, {"keep_first": -1}, EVERYWHERE)["message"]


def test_change_waits_for_a_preview_that_is_being_computed(captions, folder, monkeypatch):
    """And carries it out, not the one before."""
    key = captions.show("", str(folder))["key"]
    captions.preview(key, AddTags, {"tags": "first"}, EVERYWHERE)
    plan_edit, started, goes_on = caption_controller.edits.plan_edit, threading.Event(), threading.Event()

    def slow(*args):
        started.set()
        assert goes_on.wait(30)
        return plan_edit(*args)

    monkeypatch.setattr(caption_controller.edits, "plan_edit", slow)
    with ThreadPoolExecutor(2) as pool:
        preview = pool.submit(captions.preview, key, AddTags, {"tags": "second"}, EVERYWHERE)
        assert started.wait(30)
        changed = pool.submit(captions.apply, key, "")
        assert not wait([changed], timeout=0.2).done
        goes_on.set()
        assert preview.result()["apply"] == "Change 3 files"
        assert "Changed 3 files: add second" in changed.result()["message"]
    assert all("second" in text and "first" not in text for text in texts(folder))
