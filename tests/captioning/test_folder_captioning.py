"""Captioning a folder: every image gets its caption, or is reported with the reason."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch

from dreambooth import actions
from dreambooth.captioning import folder_captioning, loading
from dreambooth.captioning.base import CaptioningSummary, Prediction, Tag
from dreambooth.captions.writing import undo
from dreambooth.errors import Cancelled, UserError
from dreambooth.settings import Folders, parse
from dreambooth.settings.tagging import TagOptions


@pytest.fixture
def tag(onnx_tagger, models_dir):
    """``tag(folder, limit=..., write=..., progress=..., any setting=...)``"""

    def run(source, limit=None, write=True, **given):
        how = {key: given.pop(key) for key in ("progress", "borrow_gpu", "device") if key in given}
        options = parse(TagOptions, {"model": str(onnx_tagger), **given})
        return actions.captions.tag(Folders(models_dir), source, options, limit=limit, write=write, **how)

    return run


def texts(folder) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(folder.rglob("*.txt"))}


def test_every_image_gets_its_caption_whatever_else_is_in_the_folder(tag, images):
    folder = images("red.png", "sub/blue.jpg", "lime.webp", "white.png", "white.jpg", "black-masklabel.png",
                      "black.png")  # fmt: skip
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "lime.txt").write_text("a hill", "utf-8")
    (folder / "sub" / "blue.txt").write_text(" \n", "utf-8")  # an empty caption
    result = tag(folder, trigger_word="zwx", batch_size=3)
    assert (result["state"], result["written"], result["left"], result["captions"]) == ("done", 4, 1, [])
    assert texts(folder) == {
        "red.txt": "zwx, red picture", "sub/blue.txt": "zwx, blue picture, ^_^", "lime.txt": "a hill",
        "white.txt": "zwx, red picture, green picture, blue picture, someone (film), ^_^", "black.txt": "zwx",
    }  # fmt: skip
    notes = "\n".join(result["notes"])
    for name, why in {"broken.png": "is truncated", "empty.jpg": "0 bytes", "white.png": "Rename one"}.items():
        assert f"{folder / name}: " in notes and why in notes
    assert len(result["notes"]) == 3
    assert tag(folder, trigger_word="zwx")["left"] == 6  # two of them share a caption file


def test_existing_captions_are_left_replaced_or_joined_and_can_be_restored(tag, images):
    folder = images("red.png")
    (folder / "red.txt").write_bytes("a café, red_picture".encode("cp1252"))
    result = tag(folder, existing="append", additional_tags="new")
    assert texts(folder) == {"red.txt": "a café, red_picture, new"} and "Windows-1252" in result["notes"][0]
    assert tag(folder, existing="append", additional_tags="new")["unchanged"] == 1
    tag(folder, existing="prepend", trigger_word="zwx")
    assert texts(folder) == {"red.txt": "zwx, red picture, a café, new"}
    tag(folder, existing="replace")
    assert texts(folder) == {"red.txt": "red picture"}
    for _ in range(3):
        undo(folder)
    assert (folder / "red.txt").read_bytes() == "a café, red_picture".encode("cp1252")
    tag(folder, caption_extension=".caption", additional_tags="extra")
    assert (folder / "red.caption").read_text() == "extra, red picture"
    assert (folder / "red.txt").read_bytes() == "a café, red_picture".encode("cp1252")


def test_nothing_is_written_where_nothing_is_said_or_asked_for(tag, images):
    folder = images("black.png", "red.png")
    before = sorted(folder.rglob("*"))
    tried = tag(folder, write=False)
    assert sorted(folder.rglob("*")) == before and tried["written"] == 0
    assert tried["captions"] == [
        {"picture": str(folder / "black.png"), "caption": "", "tags": {}},
        {"picture": str(folder / "red.png"), "caption": "red picture", "tags": {"red_picture": 1.0}},
    ]
    result = tag(folder)
    assert texts(folder) == {"red.txt": "red picture"} and "black.png: the model predicts no tags" in result["notes"][0]


def test_a_few_of_all_over(tag, images):
    folder = images(*(f"{number:02}red.png" for number in range(20)))
    tried = tag(folder, write=False, limit=4)
    assert [row["picture"][-9:-7] for row in tried["captions"]] == ["00", "05", "10", "15"]
    assert len(tag(folder, write=False, limit=100)["captions"]) == 20


def test_folders_of_a_concepts_list(tag, images, tmp_path):
    one, other = images("one/red.png") / "one", images("other/blue.png") / "other"
    source = tmp_path / "concepts.json"
    source.write_text(json.dumps([{"instance_data_dir": str(path)} for path in (one, other, one)]))
    assert tag(source)["written"] == 2
    assert texts(one) == {"red.txt": "red picture"} and texts(other) == {"blue.txt": "blue picture, ^_^"}


def test_what_was_made_before_cancel_stays_whole(tag, images):
    folder = images(*(f"{number}red.png" for number in range(6)))

    def progress(done, total, what):
        if what == "images" and done >= 4:
            raise Cancelled("cancelled")

    result = tag(folder, progress=progress, batch_size=2)
    assert result["state"] == "cancelled" and result["written"] == 4
    assert sorted(texts(folder)) == ["0red.txt", "1red.txt", "2red.txt", "3red.txt"]


def test_what_cannot_be_done_is_a_line(tag, images, tmp_path):
    folder, empty = images("red.png"), tmp_path / "empty"
    empty.mkdir()
    refused = {
        "there is no such folder": lambda: tag(tmp_path / "gone"),
        "contains no images": lambda: tag(empty),
        "Enter the folder": lambda: tag(" "),
        "Choose a tagger or captioner": lambda: tag(folder, model=""),
        "is not a captioning model": lambda: tag(folder, model=str(folder)),
        "general_threshold .Threshold.: 2.0 is outside the range 0 to 1": lambda: tag(folder, general_threshold=2),
    }
    for expected, ask in refused.items():
        with pytest.raises(UserError, match=expected):
            ask()
    assert texts(folder) == {}


class Full:
    """A model that runs out of memory at its second batch."""

    notes = ()

    def __init__(self, error):
        self.error, self.asked = error, 0

    def prepare(self, image):
        return image

    def predict(self, prepared):
        self.asked += 1
        if self.asked > 1:
            raise self.error
        return [Prediction((Tag("first", 1.0),)) for _ in prepared]


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("Failed to allocate memory")],
    ids=["GPU", "machine", "onnxruntime"],
)  # fmt: skip
def test_exhausted_memory_is_reported_and_released(tag, images, monkeypatch, error):
    folder, held = images(*(f"{number}red.png" for number in range(4))), []

    def load(*_):
        model = Full(error)
        held.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loading, "load", load)
    with pytest.raises(UserError, match=r"lower Batch size \(now 2\), or choose the device cpu") as refused:
        tag(folder, batch_size=2)
    assert len(texts(folder)) == 2
    gc.collect()
    assert refused.value is not None and held[0]() is None  # the error does not keep the model in memory


def test_the_gpu_is_borrowed_and_given_back(tag, images, monkeypatch):
    """Only if a GPU is used, and for as long as the model is in memory."""
    folder, order = images("red.png"), []

    class Borrowed:
        def __enter__(self):
            order.append("lent")

        def __exit__(self, *_):
            order.append("back")

    load = loading.load

    def noted(path, options, device):
        order.append(device.type)
        return load(path, options, device)

    monkeypatch.setattr(loading, "load", noted)
    lending = {"write": False, "borrow_gpu": Borrowed, "device": torch.device("cuda")}
    result = tag(folder, **lending)
    assert order == ["lent", "cuda", "back"]
    assert "onnxruntime runs on the CPU" in result["notes"][0]  # onnxruntime without GPU support
    order.clear()
    options = TagOptions(model=result["model"], device="cpu")  # the user's choice takes precedence over the host's
    result = actions.captions.tag(Folders(folder), folder, options, **lending)
    assert order == ["cpu"] and result["notes"] == []


def test_images_are_decoded_while_the_model_is_at_work_but_not_all_at_once(images):
    folder = images(*(f"{number:02}red.png" for number in range(12)))
    options, prepared = TagOptions(batch_size=2), []

    class Counting(Full):
        def prepare(self, image):
            prepared.append(image)
            return image

        def predict(self, given):
            most.append(len(prepared))
            return [Prediction(sentence="x") for _ in given]

    most: list[int] = []
    summary = folder_captioning.CaptioningSummary()
    tasks = folder_captioning.tasks_in(folder, options, summary)
    found = list(folder_captioning.caption_images(Counting(None), tasks, options, summary, lambda *_: None))
    assert [one.task.image.name for one in found] == sorted(path.name for path in folder.iterdir())
    assert all(seen <= 2 * (number + 2) for number, seen in enumerate(most)) and len(prepared) == 12


def test_only_the_image_that_exceeds_the_memory_is_skipped(images, monkeypatch):
    folder, options, summary = images("red.png", "blue.png", "lime.png"), TagOptions(), CaptioningSummary()

    class Heavy:
        notes = ()

        def prepare(self, image):
            if image.getpixel((0, 0)) == (0, 0, 255):
                raise MemoryError
            return image

        def predict(self, prepared):
            return [Prediction(sentence="a picture") for _ in prepared]

    found = [
        *folder_captioning.caption_images(
            Heavy(), folder_captioning.tasks_in(folder, options, summary), options, summary, lambda *_: None
        )
    ]
    assert [one.task.image.name for one in found] == ["lime.png", "red.png"]
    assert len(summary.notes) == 1 and "blue.png: is too large for the available memory" in summary.notes[0]
