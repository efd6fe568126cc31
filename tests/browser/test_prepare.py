"""The Prepare form in the browser, with every Gradio."""

from __future__ import annotations

import random

import pytest
from PIL import Image, ImageDraw

from dreambooth.settings.preparation import PREPARE_OPTIONS


@pytest.fixture
def photos(tmp_path):
    """Three images with a subject off center, one with a caption; one file that is not an image."""
    folder = tmp_path / "pho<i>tos"
    folder.mkdir()
    for n in range(3):
        noise = random.Random(n).randbytes(75 * 50 * 3)
        image = Image.frombytes("RGB", (75, 50), noise).point(lambda v: 100 + v // 16).resize((600, 400))
        ImageDraw.Draw(image).ellipse((420, 120, 560, 300), fill="red", outline="white", width=12)
        image.save(folder / f"photo {n}.jpg", quality=90)
    (folder / "photo 1.txt").write_text("a red ball")
    (folder / "cut <b>.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def test_dry_run_prepare_and_undo(visitor, photos, tmp_path):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    visitor.tab("Images")
    visitor.open_accordion("db_pictures_prepare")
    visitor.press("prepare_dry_run")
    visitor.sees("prepare_said", "Enter the folder with the images")
    visitor.fill(pictures_folder=photos)
    visitor.sees_disabled("prepare_resolution")
    visitor.choose("prepare_crop", "smart")
    visitor.sees_disabled("prepare_resolution", False)
    visitor.fill(prepare_fixed_size="384x384", prepare_rename="ball-{n:02}")
    visitor.sees_disabled("prepare_resolution")
    visitor.press("prepare_dry_run")
    visitor.sees("prepare_outcome", "Dry run: 3 images would be saved in")
    visitor.sees("prepare_outcome", "cut <b>.png: is")
    visitor.sees("prepare_outcome", "ball-02.txt")
    shown = visitor.page.locator("#db_prepare_outcome img")
    assert shown.count() == 6
    assert visitor.page.evaluate(
        "[...document.querySelectorAll('#db_prepare_outcome img')].every((image) => image.naturalWidth > 50)"
    )
    visitor.screenshot(tmp_path / "dry-run.png")
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    assert not photos.with_name(f"{photos.name}-prepared").exists()

    visitor.press("prepare_start")
    visitor.sees("prepare_outcome", "Prepared: 3 images in")
    made = photos.with_name(f"{photos.name}-prepared")
    assert {path.name for path in made.iterdir()} == {"ball-01.jpg", "ball-02.jpg", "ball-02.txt", "ball-03.jpg"}
    assert Image.open(made / "ball-01.jpg").size == (384, 384)
    visitor.press("prepare_take")
    visitor.sees_value("pictures_folder", str(made))

    visitor.fill(pictures_folder=photos)
    visitor.check("prepare_in_place")
    visitor.sees_disabled("prepare_out")
    visitor.press("prepare_start")
    visitor.sees("prepare_outcome", "The originals are in")
    assert Image.open(photos / "ball-03.jpg").size == (384, 384) and not (photos / "photo 2.jpg").exists()
    visitor.reload()
    visitor.tab("Images")
    visitor.open_accordion("db_pictures_prepare")
    visitor.sees("prepare_outcome", "The originals are in")  # also after a reload
    visitor.fill(pictures_folder=photos)
    visitor.press("prepare_undo")
    visitor.sees("prepare_outcome", "Undone: restored 4 originals, removed 4 prepared files.")
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    visitor.press("prepare_undo")
    visitor.sees("status", "no preparation in place to undo")
    visitor.screenshot(tmp_path / "undone.png")
    assert not visitor.problems


def test_every_option_has_its_control_and_buckets_come_from_the_settings(onlooker):
    onlooker.tab("Settings")
    onlooker.open_accordion("db_group_settings_image_processing")
    onlooker.fill(resolution=768)
    onlooker.tab("Images")
    onlooker.open_accordion("db_pictures_prepare")
    ids = onlooker.page.evaluate("[...document.querySelectorAll('[id^=db_prepare_]')].map((e) => e.id)")
    assert {f"db_prepare_{key}" for key in PREPARE_OPTIONS} <= set(ids)
    onlooker.choose("prepare_crop", "center")
    onlooker.press("prepare_as_in_settings")
    onlooker.sees_value("prepare_resolution", "768")
