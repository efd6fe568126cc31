from __future__ import annotations

import math

import pytest

from dreambooth.errors import UserError
from dreambooth.images.bucket_rules import BucketRule
from dreambooth.images.buckets import Crop, bucket_sizes, fit
from dreambooth.settings import Settings


def test_the_documented_sizes() -> None:
    assert bucket_sizes(512, 64) == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]


@pytest.mark.parametrize(
    ("resolution", "step"), [(128, 64), (128, 8), (500, 64), (512, 8), (512, 64), (768, 32), (1024, 64)]
)
def test_invariants_of_buckets(resolution: int, step: int) -> None:
    sizes = bucket_sizes(resolution, step)
    square = resolution // step * step
    assert (square, square) in sizes
    assert len(set(sizes)) == len(sizes) and {(h, w) for w, h in sizes} == set(sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert 0.5 <= width / height <= 2
        if (width, height) != (square, square):
            assert (width + step) * height > resolution**2 and width * (height + step) > resolution**2


@pytest.mark.parametrize(("resolution", "step"), [(512, 0), (512, 12), (512, -8), (32, 64)])
def test_impossible_steps_are_rejected(resolution: int, step: int) -> None:
    with pytest.raises(UserError, match="bucket_step"):
        bucket_sizes(resolution, step)


@pytest.mark.parametrize("multiple", [8, 16])
def test_sizes_that_a_model_does_not_take_are_refused_with_its_multiple(multiple: int) -> None:
    """16 pixels are two latent pixels where the denoiser packs 2 x 2 of them into a token."""
    odd = multiple * 9 // 2
    for rule in ("area", "kohya"):
        text = f"bucket_step: {odd} is not a multiple of {multiple}, .* Use 64, or {multiple} for more shapes"
        with pytest.raises(UserError, match=text) as refused:
            BucketRule(Settings(bucket_rule=rule, bucket_step=odd), multiple)
        assert "latent" not in str(refused.value)
    smaller = 512 + odd // multiple * multiple
    with pytest.raises(UserError, match=f"{512 + odd} is not a multiple of {multiple}, .* Use {smaller}"):
        BucketRule(Settings(bucket_rule="one size", resolution=512 + odd), multiple)
    sizes = BucketRule(Settings(bucket_step=multiple), multiple).sizes
    assert all(side % multiple == 0 for size in sizes for side in size)


def test_fit() -> None:
    sizes = bucket_sizes(512, 64)
    assert fit((512, 512), sizes) == Crop(512, 512, 0, 0, 512, 512)
    # A 3:4 phone photo: covers 448x576 exactly in width, 21 rows hang over, cut 10 above and 11 below.
    assert fit((3024, 4032), sizes) == Crop(448, 597, 0, 10, 448, 576)
    assert fit((4032, 3024), sizes) == Crop(597, 448, 10, 0, 576, 448)
    assert fit((10, 10), sizes) == Crop(512, 512, 0, 0, 512, 512)
    assert fit((9000, 100), sizes).kept_fraction == pytest.approx(640 / (384 * 90))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (333, 777), (1999, 1500), (6000, 4000)])
def test_every_image_covers_its_bucket(size: tuple[int, int]) -> None:
    sizes = bucket_sizes(512, 8)
    crop = fit(size, sizes)
    assert (crop.width, crop.height) in sizes
    assert 0 <= crop.left <= crop.resized_w - crop.width and 0 <= crop.top <= crop.resized_h - crop.height
    assert crop.resized_w == crop.width or crop.resized_h == crop.height
    ratio = math.log(size[0] / size[1])
    nearest = min(abs(ratio - math.log(w / h)) for w, h in sizes)
    assert abs(ratio - math.log(crop.width / crop.height)) == pytest.approx(nearest)
