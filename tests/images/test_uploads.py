"""Uploaded files: images are taken, each other file is named with the reason, nothing is overwritten or taken twice."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.images.uploads import MAX_BYTES, Upload, add_uploads, remove_image
from tests.images.odd_images import encoded, header, noise, png


def upload(folder: Path, name: str, data: bytes, place: str = "") -> Upload:
    """A file as Gradio hands it over: in a temporary folder of its own."""
    path = folder / "uploads" / (place or name.replace("/", "_")) / os.path.basename(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Upload(name, path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_bad_files_are_named_and_the_others_taken(tmp_path):
    jpeg = encoded(noise(1), "JPEG")
    huge = upload(tmp_path, "huge.png", b"")
    os.truncate(huge.path, MAX_BYTES + 1)  # sparse
    (tmp_path / "holiday.jpg").mkdir()
    bad = {
        "notes.pdf": upload(tmp_path, "notes.pdf", b"%PDF-1.4"),
        "list.json": upload(tmp_path, "list.json", b"[]"),
        "text.jpg": upload(tmp_path, "text.jpg", b"this is a text, and no image at all"),
        "phone.heic": upload(tmp_path, "phone.heic", b"\0\0\0\x18ftypheic" + bytes(40)),
        "renamed.jpg": upload(tmp_path, "renamed.jpg", b"\0\0\0\x18ftypheic" + bytes(40)),
        "clip.mp4": upload(tmp_path, "clip.mp4", b"\0\0\0\x18ftypisom" + bytes(40)),
        "holiday.jpg": Upload("holiday.jpg", tmp_path / "holiday.jpg"),
        "huge.png": huge,
        "bomb.png": upload(tmp_path, "bomb.png", png(header(60_000, 60_000))),
        "broken off.jpg": upload(tmp_path, "broken off.jpg", jpeg[: len(jpeg) // 2]),
        "empty.png": upload(tmp_path, "empty.png", b""),
        ".hidden.png": upload(tmp_path, ".hidden.png", jpeg),
        "gone.png": Upload("gone.png", tmp_path / "gone.png"),
        "mystery": upload(tmp_path, "mystery", b"what is this"),
    }
    good = upload(tmp_path, "good.jpg", jpeg)
    added = add_uploads(tmp_path / "images", [*bad.values(), good])
    assert names(tmp_path / "images") == ["good.jpg"] and list(added.images) == [str(good.path)]
    assert [line.partition(": ")[0] for line in added.refused] == list(bad)
    reasons = dict(line.split(": ", 1) for line in added.refused)
    for name, reason in {
        "phone.heic": "convert it to PNG or JPEG", "renamed.jpg": "HEIC", "clip.mp4": "video", "holiday.jpg": "folder",
        "huge.png": "at most 268 MB", "bomb.png": "million pixels", "broken off.jpg": "truncated", "empty.png": "empty",
    }.items():  # fmt: skip
        assert reason in reasons[name]
    assert str(tmp_path) not in "".join(added.refused)


def test_names_are_kept_apart_and_contents_taken_once(tmp_path):
    folder, data = tmp_path / "images", [encoded(noise(seed), "PNG") for seed in range(5)]
    add_uploads(folder, [upload(tmp_path, "image.png", data[0])])
    (folder / "image.txt").write_text("mine")
    (folder / "orphan.txt").write_text("of another image")
    second = [
        upload(tmp_path, "image.png", data[1], "b"),
        upload(tmp_path, "IMAGE.jpg", data[2], "c"),
        upload(tmp_path, "copy.png", data[0], "d"),
        upload(tmp_path, "twice.png", data[1], "e"),
        upload(tmp_path, "orphan.png", data[3], "f"),
        Upload("a:b?.png", upload(tmp_path, "x.png", data[4], "g").path),
    ]
    added = add_uploads(folder, second)
    assert names(folder) == [
        "IMAGE_3.jpg", "a_b_.png", "image.png", "image.txt", "image_2.png", "orphan.txt", "orphan_2.png",
    ]  # fmt: skip
    assert [(name, path.name) for name, path in added.duplicates] == [
        ("copy.png", "image.png"),
        ("twice.png", "image_2.png"),
    ]
    assert len(added.renamed) == 4 and not added.refused
    assert (folder / "image.png").read_bytes() == data[0] and (folder / "image.txt").read_text() == "mine"


def _add(folder: Path, uploads: list[Upload]) -> None:
    add_uploads(folder, uploads)


def test_two_processes_and_two_threads_add_to_one_folder(tmp_path):
    """Each drops ten images, all with the same names; three of them are the same in all."""
    folder, workers = tmp_path / "images", []
    for worker in range(4):
        uploads = [
            upload(tmp_path, "image.png", encoded(noise(n if n < 3 else 100 * worker + n), "PNG"), f"{worker}/{n}")
            for n in range(10)
        ]
        kind = threading.Thread if worker % 2 else multiprocessing.get_context("spawn").Process
        workers.append(kind(target=_add, args=(folder, uploads)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(names(folder)) == 3 + 4 * 7
    assert len({(folder / name).read_bytes() for name in names(folder)}) == 3 + 4 * 7


def test_five_hundred_at_once(tmp_path):
    data = [encoded(noise(0).rotate(n), "PNG") for n in range(1, 251)]
    uploads = [upload(tmp_path, "image.png", data[n % 250], str(n)) for n in range(500)]
    done: list[int] = []
    added = add_uploads(tmp_path / "images", uploads, done.append)
    assert len(names(tmp_path / "images")) == len(added.duplicates) == 250 and done[-1] == 500


def test_removing_takes_caption_and_mask_along(tmp_path):
    folder = tmp_path / "images"
    add_uploads(
        folder, [upload(tmp_path, name, encoded(noise(n), "PNG")) for n, name in enumerate(["a.png", "ab.png"])]
    )
    for name in ("a.txt", "a.caption", "a_mask.png", "ab.txt"):
        (folder / name).touch()
    remove_image(folder, "a.png")
    assert names(folder) == ["ab.png", "ab.txt"]
    with pytest.raises(UserError, match="already removed"):
        remove_image(folder, "../a.png")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "images").write_text("a file")
    with pytest.raises(UserError, match="images"):
        add_uploads(tmp_path / "images", [upload(tmp_path, "a.png", encoded(noise(1), "PNG"))])
