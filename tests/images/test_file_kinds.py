"""Files whose names say little or something wrong: used if they are images, otherwise named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dreambooth.captions.writing import write_captions
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.images.file_kinds import FileKind, advice, kind_of
from dreambooth.settings import Concept, Settings
from tests.images.odd_images import encoded, noise

SETTINGS = Settings(resolution=128, bucket_step=32)


def test_an_image_named_like_a_caption_is_named_and_never_overwritten(tmp_path: Path) -> None:
    for name in ("plain.png", "alone.txt", "taken.png", "taken.txt", "b.CAPTION"):
        (tmp_path / name).write_bytes(encoded(noise(len(name)), "JPEG"))
    plan = make_plan([Concept(instance_data_dir=str(tmp_path))], SETTINGS)
    assert [example.path.name for example in plan.examples] == ["plain.png"]
    issues = {issue.path.name: issue for issue in plan.issues if issue.left_out}
    assert {name: issue.kind for name, issue in issues.items()} == {
        "alone.txt": "other-format", "b.CAPTION": "other-format", "taken.png": "caption-unreadable",
    }  # fmt: skip
    assert "rename it to .jpg" in issues["alone.txt"].text
    with pytest.raises(UserError, match=r"alone\.txt: is an image, which a caption would overwrite"):
        write_captions(tmp_path, {tmp_path / "alone.txt": "a toy", tmp_path / "new.txt": "a toy"}, "test")
    assert not (tmp_path / "new.txt").exists()


def test_a_caption_beside_an_image_without_an_extension_is_its_caption(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(encoded(noise(1), "PNG"))
    (tmp_path / "photo.txt").write_text("a red toy")
    plan = make_plan([Concept(instance_data_dir=str(tmp_path))], SETTINGS)
    assert [example.caption for example in plan.examples] == ["a red toy"]


def test_side_files_are_summarized_without_the_captions_of_the_concept(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(noise(number), "PNG"))
        (tmp_path / f"{number}.tags").write_text("a toy")
        (tmp_path / f"{number}.npz").write_bytes(b"PK")
    plain = make_plan([Concept(instance_data_dir=str(tmp_path), caption_extension=".tags")], SETTINGS)
    assert [(issue.path.name, issue.text) for issue in plain.issues if issue.kind == "side-file"] == [
        ("0.npz", "is not an image and is ignored, as are 2 other .npz files.")
    ]
    assert not plain.warnings


def test_a_folder_of_other_files_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    shutil.copy(tmp_path / "photos.zip", tmp_path / "words.md")
    with pytest.raises(UserError, match=r"but photos\.zip, which is an archive: unpack it into the folder"):
        make_plan([Concept(instance_data_dir=str(tmp_path))], SETTINGS)


def test_each_unusable_ending_has_its_advice() -> None:
    expected = {
        "a.CR3": "raw photo", "a.kra": "paint program", "a.webm": "video", "a.7z": "archive", "a.docx": "document",
        "a.url": "shortcut", "a.part": "unfinished download", "a.png.orig": "backup", "a.jp2": "convert it",
    }  # fmt: skip
    for name, words in expected.items():
        assert kind_of(name) in (FileKind.UNSUPPORTED, FileKind.NOT_IMAGE) and words in advice(name)
