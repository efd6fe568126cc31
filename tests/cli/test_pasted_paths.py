"""Paths as people paste them, through the commands that take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run
from tests.images.odd_images import encoded, noise


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(encoded(noise(number, (128, 128)), "PNG"))
        (folder / f"{number}.txt").write_text(f"a zwx toy {number}")
    return folder


def trained(*arguments: object) -> list[str]:
    done = run(*arguments, "--json", "--set", "resolution=64")
    return [row["path"] for row in json.loads(done.stdout).get("pictures", [])]


def test_commands_that_read_a_folder(photos: Path, tmp_path: Path) -> None:
    images = [str(photos / f"{number}.png") for number in range(2)]
    url = photos.as_uri()
    assert "%20" in url
    for path in (f'"{photos}"', f"'{photos}' ", url, str(photos).replace(" ", "\\ ")):
        assert trained("plan", path) == images
    counted = json.loads(run("captions", f'"{photos}"', "--count", "--json").stdout)
    assert counted["pictures"] == 2
    done = run(
        "prepare", url, "--out", f'"{tmp_path / "new folder"}"', "--crop", "center", "--resolution", "64", "--json"
    )
    assert json.loads(done.stdout)["state"] == "done" and (tmp_path / "new folder" / "0.png").is_file()


def test_concepts_files_name_folders_as_pasted(photos: Path, tmp_path: Path) -> None:
    for path in ('"my photos"', "'my photos'", " my photos ", "my\\ photos", "./my%20photos", photos.as_uri()):
        (tmp_path / "concepts.json").write_text(json.dumps([{"instance_data_dir": path, "class_data_dir": ""}]))
        assert trained("plan", f'"{tmp_path / "concepts.json"}"') == [str(photos / f"{n}.png") for n in range(2)], path
    (tmp_path / "concepts.json").write_text(json.dumps([{"instance_data_dir": "D:\\photos"}]))
    assert "D:\\photos is a folder of a Windows computer" in run("plan", tmp_path / "concepts.json").stderr


def test_a_web_address_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    models = ["--models-dir", tmp_path / "models"]
    url = "https://civitai.com/api/download/models/128713"
    for arguments in (
        ["create", "m", "--source", url], ["plan", url], ["inspect", url], ["captions", url, "--count"],
        ["lora-resize", url, "--out", "a.safetensors"], ["tag", photos, "--model", url, "--existing", "replace"],
        ["prepare", url],
    ):  # fmt: skip
        refused = run(*arguments, *models)
        assert refused.returncode == 1 and f"{url} is a web address, not a path. Download" in refused.stderr, arguments
    refused = run("create", "m", "--source", "https://huggingface.co/org/model", *models)
    assert "org/model works too" in refused.stderr


def test_the_image_whose_caption_is_set(photos: Path) -> None:
    for number, name in enumerate(("0", "0.png", "0.txt", str(photos / "0.png"), f'"{photos / "0.png"}"')):
        assert run("captions", photos, "--set", name, f"a toy, {number}").returncode == 0, name
        assert (photos / "0.txt").read_text() == f"a toy, {number}"
    assert "is not an image in" in run("captions", photos, "--set", "5", "a toy").stderr
