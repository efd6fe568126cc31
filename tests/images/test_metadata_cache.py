"""Unchanged images are not decoded again; a damaged or locked database only costs time."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.images import probe
from dreambooth.settings import Concept, Settings

SETTINGS = Settings(resolution=128, bucket_step=8)
MINUTE = 60


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """Images written a minute ago: complete ones, a truncated one, an animated one."""
    folder = tmp_path / "toys"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (140 + number, 128), (50 * number, 9, 9)).save(folder / f"{number}.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:-30])
    Image.new("L", (128, 128)).save(folder / "moving.gif", save_all=True, append_images=[Image.new("L", (128, 128), 9)])
    for path in folder.iterdir():
        age(path)
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the decoded images."""
    names: list[str] = []
    original = probe.decode_image

    def decode(data: bytes, path: Path) -> object:
        names.append(path.name)
        return original(data, path)

    monkeypatch.setattr(probe, "decode_image", decode)
    return names


def age(path: Path, seconds: float = MINUTE) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def plan_of(folder: Path, cache: Path) -> Plan:
    return make_plan([Concept(instance_data_dir=str(folder))], SETTINGS, cache=cache)


def test_unchanged_images_are_not_decoded_again(toys: Path, tmp_path: Path, decoded: list[str]) -> None:
    cache = tmp_path / "not there yet" / "images.sqlite"
    first = plan_of(toys, cache)
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "3.png", "cut.png", "moving.gif"]
    decoded.clear()
    again = plan_of(toys, cache)
    assert decoded == []
    assert again == first == make_plan([Concept(instance_data_dir=str(toys))], SETTINGS)

    decoded.clear()
    old = (toys / "1.png").stat()
    Image.new("RGB", (128, 128), "blue").save(toys / "1.png")  # another content
    age(toys / "1.png", 2 * MINUTE)
    os.utime(toys / "2.png", ns=(old.st_atime_ns, old.st_mtime_ns + 1))  # another time
    (toys / "3.png").rename(toys / "3 moved.png")
    changed = plan_of(toys, cache)
    assert sorted(decoded) == ["1.png", "2.png", "3 moved.png"]
    assert changed.examples[1].original_size == (128, 128)


def test_an_image_of_two_concepts_is_decoded_once(toys: Path, tmp_path: Path, decoded: list[str]) -> None:
    concept = Concept(instance_data_dir=str(toys))
    make_plan([concept, concept], SETTINGS, cache=tmp_path / "images.sqlite")
    assert sorted(decoded) == sorted(path.name for path in toys.iterdir())


def test_captions_are_read_each_time(toys: Path, tmp_path: Path) -> None:
    cache = tmp_path / "images.sqlite"
    plan_of(toys, cache)
    (toys / "0.txt").write_text("a new caption")
    assert plan_of(toys, cache).examples[0].caption == "a new caption"


def test_a_file_written_just_now_is_not_cached(toys: Path, tmp_path: Path, decoded: list[str]) -> None:
    cache = tmp_path / "images.sqlite"
    for name, seconds in (("0.png", 0), ("1.png", -MINUTE)):  # the clock of a network drive may be ahead
        age(toys / name, seconds)
    plan_of(toys, cache)
    decoded.clear()
    plan_of(toys, cache)
    assert sorted(decoded) == ["0.png", "1.png"]


@pytest.mark.parametrize("damage", ["garbage", "cut", "other rows", "a folder", "locked", "read-only"])
def test_a_database_that_cannot_be_used_costs_only_time(toys: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "images.sqlite"
    whole = plan_of(toys, cache)
    data, locker = cache.read_bytes(), None
    if damage == "garbage":
        cache.write_bytes(b"no database " * 1000)
    elif damage == "cut":
        cache.write_bytes(data[: len(data) // 2] + os.urandom(100))
    elif damage == "other rows":
        with sqlite3.connect(cache) as database:
            database.execute("UPDATE pictures SET told = '{not json'")
        database.close()
    elif damage == "a folder":
        cache.unlink()
        cache.mkdir()
    elif damage == "locked":
        locker = sqlite3.connect(cache)
        locker.execute("BEGIN EXCLUSIVE")
    else:
        cache.chmod(0o400)
    assert plan_of(toys, cache) == whole
    if locker:
        locker.close()
    assert plan_of(toys, cache) == whole


def test_a_damaged_database_is_recreated(toys: Path, tmp_path: Path, decoded: list[str]) -> None:
    cache = tmp_path / "images.sqlite"
    cache.write_bytes(b"no database " * 1000)
    plan_of(toys, cache)
    decoded.clear()
    plan_of(toys, cache)
    assert decoded == []
