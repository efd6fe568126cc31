"""Pictures that look the same are found, others are not, and all pairs are found fast."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageEnhance

import dreambooth
from dreambooth.images.near_duplicates import MAX_BIT_DISTANCE, find_near_duplicates, fingerprint_of, near_pairs
from tests.images.odd_images import encoded, noise

SUBJECT = Path(dreambooth.__file__).parent / "embedded" / "subject"


def distance(one: int, other: int) -> int:
    return bin(one ^ other).count("1")


def saved(picture: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(picture, "JPEG", quality=quality)))


def test_saved_scaled_and_brightened_pictures_look_the_same() -> None:
    for seed in range(12):
        picture = noise(seed, (700, 500))
        copies = [
            saved(picture, 40),
            picture.resize((350, 250), Image.Resampling.LANCZOS),
            picture.crop((5, 4, 695, 496)),
            ImageEnhance.Brightness(picture).enhance(0.9),
            ImageEnhance.Color(picture).enhance(0.8),
        ]
        found = {place: first for place, first, _ in find_near_duplicates([*map(fingerprint_of, [picture, *copies])])}
        assert found == dict.fromkeys(range(1, 6), 0), seed


def test_other_pictures_look_different() -> None:
    looks = [fingerprint_of(noise(seed, (300, 300))) for seed in range(60)]
    assert min(distance(one.bits, other.bits) for one, other in itertools.combinations(looks, 2)) > MAX_BIT_DISTANCE


def test_what_differs_in_colour_alone_are_two_pictures() -> None:
    """As the embedded subject's, of which one stands before red and one before green."""
    toys = [Image.open(path).convert("RGB") for path in sorted(SUBJECT.glob("*.png"))]
    assert len(toys) == 6 and not [*find_near_duplicates([*map(fingerprint_of, toys)])]
    before = noise(4, (400, 300)).convert("L")
    red, green = (Image.merge("RGB", [before.point(lambda v: v // 2), before, before][turn:] + [before] * turn)
                  for turn in (0, 1))  # fmt: skip
    looks = [*map(fingerprint_of, (red, green, saved(green, 50), saved(red, 50)))]
    assert distance(looks[0].bits, looks[1].bits) <= MAX_BIT_DISTANCE
    assert [pair[:2] for pair in find_near_duplicates(looks)] == [(2, 1), (3, 0)]


def test_a_picture_that_shows_nothing_looks_like_none() -> None:
    assert fingerprint_of(Image.new("RGB", (300, 200), "red")) is None
    assert fingerprint_of(Image.new("RGB", (1, 5000), "red")) is None


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
        if distance(looks[one], looks[other]) <= MAX_BIT_DISTANCE
    ]
    assert len(wanted) > 600
    assert near_pairs(looks) == wanted
