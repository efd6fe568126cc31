"""Captions in every encoding, and the prompt rules, one per row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreambooth.captioning.base import CaptioningSummary
from dreambooth.captioning.folder_captioning import tasks_in
from dreambooth.captions.folder import read_captions
from dreambooth.captions.prompts import build_prompt
from dreambooth.captions.reading import FROM_FILE_NAME, CaptionSource, read_caption, read_caption_bytes
from dreambooth.captions.writing import write_captions
from dreambooth.errors import UserError
from dreambooth.settings.tagging import TagOptions


@pytest.mark.parametrize(
    ("encoding", "text", "warns"),
    [
        ("utf-8", "café, 小猫", False),
        ("utf-8-sig", "café, 小猫", False),
        ("utf-16", "café, 小猫", False),
        ("utf-32", "café, 小猫", False),
        ("cp1252", "café, “red” hat", True),
    ],
)
def test_caption_file_encodings(tmp_path: Path, encoding: str, text: str, warns: bool) -> None:
    (tmp_path / "小猫 1.txt").write_bytes(f"{text}\r\n".encode(encoding))
    caption = read_caption(tmp_path / "小猫 1.png")
    assert (caption.text, caption.source) == (text, "小猫 1.txt")
    assert bool(caption.encoding) == warns


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("03_a_red-hat.png", "a red-hat"),
        ("10-sks dog.jpg", "sks dog"),
        ("001.png", ""),
        ("小猫 在 公园.png", "小猫 在 公园"),
        (r"yua \(idol\).png", r"yua \(idol\)"),
        ("v1.5 style.png", "v1.5 style"),
        ("caf\udce9 cat.png", "caf\ufffd cat"),  # a name that is not UTF-8, as Python decodes it
    ],
)
def test_caption_from_the_file_name(tmp_path: Path, name: str, text: str) -> None:
    assert read_caption(tmp_path / name).text == text
    assert read_caption(tmp_path / name).source == FROM_FILE_NAME


def test_odd_caption_files(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a dog,\n\n  on   grass \n")
    assert read_caption(tmp_path / "lines.png").text == "a dog, on grass"
    (tmp_path / "empty.txt").write_text(" \n")
    empty = read_caption(tmp_path / "empty.png")
    assert (empty.text, empty.source) == ("", "empty.txt") and empty.is_file_empty
    (tmp_path / "binary.txt").write_bytes(b"\0\1a\0b")
    with pytest.raises(UserError, match=r"binary\.txt: is not a text file"):
        read_caption(tmp_path / "binary.png")


def test_a_caption_file_from_a_drive_that_writes_capitals(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_text("a dog")
    assert read_caption(tmp_path / "a.jpg").text == "a dog"
    (tmp_path / "long.caption").write_text("a cat")
    assert read_caption(tmp_path / "long.jpg").source == "long.caption"


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices")
def test_pipes_devices_and_huge_files_are_reported_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "huge.txt").touch()
    os.truncate(tmp_path / "huge.txt", 2**40)
    wrong = {"pipe": "is a pipe", "device": "device", "folder": "is a folder", "huge": "expected at most"}
    for stem, cause in wrong.items():
        (tmp_path / f"{stem}.png").touch()
        with pytest.raises(UserError, match=rf"{stem}\.txt\b.*{cause}"):
            read_caption(tmp_path / f"{stem}.png")
    read = read_captions(tmp_path, CaptionSource())
    assert len(read.problems) == len(wrong) and not read.files
    summary = CaptioningSummary()
    assert tasks_in(tmp_path, TagOptions(), summary) == [] and len(summary.notes) == len(wrong)


@pytest.mark.skipif(os.name == "nt", reason="another limit of names")
def test_the_longest_name_that_a_disk_takes(tmp_path: Path) -> None:
    """Its .caption file would have a longer name, and so would the temporary file."""
    image = tmp_path / ("猫" * 83 + "ab.jpg")
    image.touch()
    assert read_caption(image).source == FROM_FILE_NAME
    (file,) = read_captions(tmp_path, CaptionSource()).files
    assert write_captions(tmp_path, {file.path: "a cat"}, "edit") == 1
    assert read_caption(image).text == "a cat"
    with pytest.raises(UserError, match="name is too long"):
        read_caption_bytes(image.with_suffix(".caption"))


INSTANCE, CLASS = False, True
F = "[filewords]"


@pytest.mark.parametrize(
    ("kind", "template", "caption", "instance", "klass", "wanted"),
    [
        # filewords
        (INSTANCE, F, "on grass", "", "", "on grass"),
        (INSTANCE, "photo, [FileWords], 8k", "on grass", "", "", "photo, on grass, 8k"),
        (INSTANCE, "a photo", "on grass", "", "", "a photo"),
        (INSTANCE, "", "on grass", "", "", "on grass"),
        (INSTANCE, "[filewords] [filewords]", "x", "", "", "x x"),
        # backslashes and characters that mean something in patterns and replacements
        (INSTANCE, F, r"yua_\(idol\), \1girl", "", "", r"yua_\(idol\), \1girl"),
        (INSTANCE, F, "1girl", r"yua_\(idol\)", "", r"yua_\(idol\), 1girl"),
        (INSTANCE, F, r"solo, yua_\(idol\), 1girl", r"yua_\(idol\)", "", r"solo, yua_\(idol\), 1girl"),
        (INSTANCE, F, "a girl (smiling)", r"\1+", "girl", r"a \1+ girl (smiling)"),
        (INSTANCE, F, "a c++ cat", "c++", "", "a c++ cat"),
        # instance prompts
        (INSTANCE, F, "running", "sks", "dog", "sks, running"),
        (INSTANCE, F, "a dog running", "sks", "dog", "a sks dog running"),
        (INSTANCE, F, "A Dog running", "sks", "dog", "A sks Dog running"),
        (INSTANCE, F, "the dog by a dog", "sks", "dog", "the sks dog by a dog"),
        (INSTANCE, F, "the dog by a dog", "sks dog", "dog", "the sks dog by a dog"),
        (INSTANCE, F, "solo, 1girl, smile", "yua", "1girl", "solo, yua 1girl, smile"),
        (INSTANCE, F, "hotdogs", "sks", "dog", "sks, hotdogs"),
        (INSTANCE, F, "a photo of sks dog", "sks", "dog", "a photo of sks dog"),
        (INSTANCE, F, "a dog", "", "dog", "a dog"),
        (INSTANCE, F, "running", "", "dog", "running"),
        (INSTANCE, F, "", "sks", "dog", "sks"),
        # no token twice
        (INSTANCE, "sks, [filewords]", "sks, running", "sks", "", "sks, running"),
        (INSTANCE, "photo of SKS, [filewords]", "a hat on sks", "sks", "", "photo of SKS, a hat on"),
        (INSTANCE, "a sks dog, [filewords]", "dog, grass", "sks", "dog", "a sks dog, grass"),
        (CLASS, "a dog, [filewords]", "dog, grass", "sks", "dog", "a dog, grass"),
        (CLASS, F, "a dog chasing a dog", "sks", "dog", "a dog chasing a dog"),
        # class prompts
        (CLASS, F, "running", "sks", "dog", "dog, running"),
        (CLASS, F, "a sks dog running", "sks", "dog", "a dog running"),
        (CLASS, F, "a photo of sks", "sks", "dog", "a photo of dog"),
        (CLASS, F, "a photo of sks dog", "sks dog", "dog", "a photo of dog"),
        (CLASS, F, "a sks, brown dog", "sks", "dog", "brown dog"),
        (CLASS, F, "sks, running", "sks", "", "running"),
        (CLASS, F, "a dog running", "", "dog", "a dog running"),
        (CLASS, F, "running", "", "dog", "dog, running"),
        (CLASS, "photo of a dog", "ignored", "sks", "dog", "photo of a dog"),
        # scripts without spaces between words
        (INSTANCE, F, "小明在公园", "小明", "", "小明在公园"),
        (INSTANCE, F, "男孩在公园", "小明", "男孩", "小明 男孩在公园"),
        (INSTANCE, F, "который", "кот", "", "кот, который"),
        # white space and empty parts
        (INSTANCE, "  a   photo ,, [filewords] , 8k ", "", "", "", "a photo, 8k"),
        (INSTANCE, F, "a big  red\tdog", " big red ", "", "a big red dog"),
    ],
)
def test_prompt_rules(kind: bool, template: str, caption: str, instance: str, klass: str, wanted: str) -> None:
    assert build_prompt(template, caption, instance, klass, kind) == wanted
