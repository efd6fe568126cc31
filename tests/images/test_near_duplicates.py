"""Near duplicates are found, other images are not, and the fast search finds all pairs."""

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


def saved(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality)))


def test_saved_scaled_and_brightened_images_are_near_duplicates() -> None:
    for seed in range(12):
        image = noise(seed, (700, 500))
        copies = [
            saved(image, 40),
            image.resize((350, 250), Image.Resampling.LANCZOS),
            image.crop((5, 4, 695, 496)),
            ImageEnhance.Brightness(image).enhance(0.9),
            ImageEnhance.Color(image).enhance(0.8),
        ]
        found = {index: first for index, first, _ in find_near_duplicates([*map(fingerprint_of, [image, *copies])])}
        assert found == dict.fromkeys(range(1, 6), 0), seed


def test_other_images_are_not_near_duplicates() -> None:
    fingerprints = [fingerprint_of(noise(seed, (300, 300))) for seed in range(60)]
    distances = (distance(one.bits, other.bits) for one, other in itertools.combinations(fingerprints, 2))
    assert min(distances) > MAX_BIT_DISTANCE


def test_images_that_differ_only_in_color_are_not_duplicates() -> None:
    """Such as those of the embedded subject, on a red and on a green background."""
    toys = [Image.open(path).convert("RGB") for path in sorted(SUBJECT.glob("*.png"))]
    assert len(toys) == 6 and not [*find_near_duplicates([*map(fingerprint_of, toys)])]
    before = noise(4, (400, 300)).convert("L")
    red, green = (Image.merge("RGB", [before.point(lambda v: v // 2), before, before][turn:] + [before] * turn)
                  for turn in (0, 1))  # fmt: skip
    fingerprints = [*map(fingerprint_of, (red, green, saved(green, 50), saved(red, 50)))]
    assert distance(fingerprints[0].bits, fingerprints[1].bits) <= MAX_BIT_DISTANCE
    assert [pair[:2] for pair in find_near_duplicates(fingerprints)] == [(2, 1), (3, 0)]


def test_a_plain_image_has_no_fingerprint() -> None:
    assert fingerprint_of(Image.new("RGB", (300, 200), "red")) is None
    assert fingerprint_of(Image.new("RGB", (1, 5000), "red")) is None


@pytest.mark.parametrize("numpy_counts_bits", [True, False])
def test_all_near_pairs_are_found(monkeypatch: pytest.MonkeyPatch, numpy_counts_bits: bool) -> None:
    if not numpy_counts_bits:
        monkeypatch.delattr(numpy, "bitwise_count", raising=False)
    rng = random.Random(3)
    hashes = {rng.getrandbits(64) for _ in range(300)}
    for each in list(hashes)[:150]:
        for bits in range(1, 9):
            hashes.add(each ^ sum(1 << bit for bit in rng.sample(range(64), bits)))
    hashes = sorted(hashes, key=lambda each: rng.random())
    wanted = [
        (one, other, distance(hashes[one], hashes[other]))
        for one, other in itertools.combinations(range(len(hashes)), 2)
        if distance(hashes[one], hashes[other]) <= MAX_BIT_DISTANCE
    ]
    assert len(wanted) > 600
    assert near_pairs(hashes) == wanted
