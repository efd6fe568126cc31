"""Pictures that look the same are found, others are not, and all pairs are found fast."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageEnhance

from dreambooth.dataset.lookalikes import NEAR, look_of, near_pairs
from tests.dataset.odd_pictures import noise


def distance(one: int, other: int) -> int:
    return bin(one ^ other).count("1")


def test_saved_scaled_and_brightened_pictures_look_the_same(tmp_path: Path) -> None:
    for seed in range(12):
        picture = noise(seed, (700, 500))
        look = look_of(picture)
        picture.save(tmp_path / "a.jpg", quality=40)
        with Image.open(tmp_path / "a.jpg") as saved:
            assert distance(look, look_of(saved)) <= NEAR
        assert distance(look, look_of(picture.resize((350, 250), Image.Resampling.LANCZOS))) <= NEAR
        assert distance(look, look_of(ImageEnhance.Brightness(picture).enhance(0.9))) <= NEAR


def test_other_pictures_look_different() -> None:
    looks = [look_of(noise(seed, (300, 300))) for seed in range(60)]
    assert min(distance(one, other) for one, other in itertools.combinations(looks, 2)) > NEAR


def test_a_picture_that_shows_nothing_looks_like_none() -> None:
    assert look_of(Image.new("RGB", (300, 200), "red")) is None
    assert look_of(Image.new("RGB", (1, 5000), "red")) is None


@pytest.mark.parametrize("numpy_counts_bits", [True, False])
def test_all_near_pairs_are_found(monkeypatch: pytest.MonkeyPatch, numpy_counts_bits: bool) -> None:
    if not numpy_counts_bits:
        monkeypatch.delattr(numpy, "bitwise_count", raising=False)
    rng = random.Random(3)
    looks = {rng.getrandbits(64) for _ in range(300)}
    for look in list(looks)[:150]:
        for bits in range(1, 9):
            looks.add(look ^ sum(1 << bit for bit in rng.sample(range(64), bits)))
    looks = sorted(looks, key=lambda look: rng.random())
    wanted = [
        (one, other, distance(looks[one], looks[other]))
        for one, other in itertools.combinations(range(len(looks)), 2)
        if distance(looks[one], looks[other]) <= NEAR
    ]
    assert len(wanted) > 600
    assert near_pairs(looks) == wanted
