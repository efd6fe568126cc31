"""Aspect-ratio buckets: image sizes of about equal area, so that images are not distorted and little is cropped.

All images of a batch have the same size. Each image goes to the bucket with the nearest aspect ratio, is resized to
cover it, and is cropped equally on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth.errors import UserError
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE

Size = tuple[int, int]  # width, height in pixels

_MAX_ASPECT_RATIO = 2.0  # long side : short side; beyond it, composition suffers more than from cropping


@dataclass(frozen=True, slots=True)
class Crop:
    """The resize and crop that bring an image to its bucket: resize to ``resized``, then cut out the box. In pixels."""

    resized_w: int
    resized_h: int
    left: int
    top: int
    width: int
    height: int

    @property
    def bucket(self) -> Size:
        return self.width, self.height

    def box_in(self, size: Size) -> tuple[float, float, float, float]:
        """The crop box in pixels of the image before resizing: left, top, right, bottom."""
        (width, height), x_scale, y_scale = size, size[0] / self.resized_w, size[1] / self.resized_h
        right, bottom = (self.left + self.width) * x_scale, (self.top + self.height) * y_scale
        return self.left * x_scale, self.top * y_scale, min(right, width), min(bottom, height)

    @property
    def kept_fraction(self) -> float:
        """Fraction of the image's area inside the crop, 0 to 1."""
        return self.width * self.height / (self.resized_w * self.resized_h)


def bucket_sizes(
    resolution: int, step: int, min_side: int = 0, max_side: int = 0, multiple: int = DEFAULT_PIXEL_MULTIPLE
) -> list[Size]:
    """The buckets for a resolution: the square, and every shape up to 2:1 either way, narrowest first.

    Sides are multiples of ``step``, the area is at most resolution^2 (so memory is that of the square), and
    no side could be a step longer within that area. Example: 512 with step 64 gives 384x640, 448x576,
    512x512, 576x448, 640x384. ``min_side`` and ``max_side`` limit the sides; 0 sets no limit.
    UserError for a step that is not a multiple of ``multiple`` or too large, and for limits that leave no bucket.
    """
    require_valid_step(resolution, step, multiple)
    _require_square_within(resolution, step, min_side, max_side)
    area = resolution * resolution
    square = resolution // step * step
    sizes = {(square, square)}
    for width in range(step, int(_MAX_ASPECT_RATIO * resolution) + 1, step):
        height = area // width // step * step
        could_be_wider = (width + step) * height <= area
        if height and not could_be_wider and max(width, height) <= _MAX_ASPECT_RATIO * min(width, height):
            sizes.add((width, height))
    return sorted(size for size in sizes if min(size) >= min_side and max(size) <= (max_side or max(size)))


def require_valid_step(resolution: int, step: int, multiple: int = DEFAULT_PIXEL_MULTIPLE) -> None:
    """UserError for a step that is larger than the resolution, or no multiple of what the model takes."""
    if step < multiple or step % multiple:
        raise UserError(
            f"bucket_step: {step} is not a multiple of {multiple}, which image sides must be. Use 64, or {multiple} "
            "for more shapes."
        )
    if resolution < step:
        raise UserError(f"resolution: {resolution} is smaller than bucket_step ({step}). Use a larger resolution.")


def rounding_warning(resolution: int, step: int) -> str:
    """The warning for a resolution that is not a multiple of the step; "" for one that is."""
    side = resolution // step * step
    if resolution == side:
        return ""
    return (
        f"resolution: {resolution} is not a multiple of bucket_step ({step}), so square images become {side}x{side}. "
        f"Set {side} or {side + step}."
    )


def bucket_without_upscaling(size: Size, resolution: int, step: int, min_side: int = 0, max_side: int = 0) -> Size:
    """The bucket of an image that may not be upscaled: no side is longer than the image's.

    The image is cropped to 2:1 if it is longer, scaled down if it is too large, and its sides are rounded down to
    multiples of ``step``. UserError for an image smaller than the smallest bucket.
    """
    width, height = size
    width, height = min(width, _MAX_ASPECT_RATIO * height), min(height, _MAX_ASPECT_RATIO * width)
    scale = min(1.0, resolution / math.sqrt(width * height), (max_side or math.inf) / max(width, height))
    # Rounded first, so that 512 * 0.999... is 512.
    sides = [int(round(side * scale, 6)) // step * step for side in (width, height)]
    smallest = max(step, min_side)
    if min(sides) < smallest:
        raise UserError(
            f"is {size[0]}x{size[1]}, too small for a bucket of {smallest} pixels without upscaling. "
            "Remove it, or turn bucket_no_upscale off."
        )
    return sides[0], sides[1]


def _require_square_within(resolution: int, step: int, min_side: int, max_side: int) -> None:
    square = resolution // step * step
    problems = []
    if min_side > square:
        problems.append(
            f"bucket_min_side: {min_side} is larger than the side of a square bucket ({square}). Set {square} or less."
        )
    if max_side and max_side < square:
        problems.append(
            f"bucket_max_side: {max_side} is smaller than the side of a square bucket ({square}). Set {square} or more."
        )
    if problems:
        raise UserError.from_problems(problems)


def fit(size: Size, buckets: Sequence[Size]) -> Crop:
    """The crop that brings an image of ``size`` to the bucket of the nearest aspect ratio.

    The distance is the ratio of the two aspect ratios (3:2 is as far from 1:1 as 2:3); of two equally near buckets,
    the larger, then the first wins.
    """
    width, height = size

    def distance(bucket: Size) -> tuple[float, int]:
        # Rounded so that mirrored shapes tie exactly, whatever the last bit of the logarithm.
        return round(abs(math.log(width * bucket[1] / (height * bucket[0]))), 9), -bucket[0] * bucket[1]

    bucket_w, bucket_h = min(buckets, key=distance)
    scale = max(bucket_w / width, bucket_h / height)
    resized_w = max(bucket_w, round(width * scale))
    resized_h = max(bucket_h, round(height * scale))
    left, top = (resized_w - bucket_w) // 2, (resized_h - bucket_h) // 2
    return Crop(resized_w, resized_h, left, top, bucket_w, bucket_h)
