"""Aspect-ratio buckets of kohya's sd-scripts: their sizes, the assignment of images, and the crop.

Unlike our own buckets (:mod:`dreambooth.images.buckets`), shapes go beyond 2:1, the distance is the difference of the
aspect ratios (so that tall images are matched less exactly than wide ones), and sizes are rounded half up. Follows
sd-scripts at commit 48d368f, so that an imported configuration trains the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dreambooth.errors import UserError
from dreambooth.images.buckets import Crop, Size, require_valid_step
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE


def kohya_sizes(
    width: int, height: int, step: int, min_side: int = 0, max_side: int = 0, multiple: int = DEFAULT_PIXEL_MULTIPLE
) -> list[Size]:
    """All buckets for a resolution of ``width`` x ``height``, sorted. ``min_side`` and ``max_side`` limit the sides.

    0 means half and twice the resolution (256 and 1024 for 512). The limits are widened to multiples of the step.
    UserError for an impossible step, and for limits that exclude the resolution.
    """
    require_valid_step(min(width, height), step, multiple)
    min_side, max_side = min_side or min(width, height) // 2, max_side or 2 * max(width, height)
    min_side, max_side = max(step, min_side // step * step), -(-max_side // step) * step
    problems = []
    if min(width, height) < min_side:
        side = min(width, height)
        problems.append(f"bucket_min_side: {min_side} is larger than the resolution ({side}). Set {side} or less.")
    if max(width, height) > max_side:
        side = max(width, height)
        problems.append(f"bucket_max_side: {max_side} is smaller than the resolution ({side}). Set {side} or more.")
    if problems:
        raise UserError.from_problems(problems)
    area = width * height
    square = int(math.sqrt(area) // step) * step
    sizes = {(square, square)}
    for side in range(min_side, max_side + 1, step):
        other_side = min(max_side, area // side // step * step)
        if other_side >= min_side:
            sizes |= {(side, other_side), (other_side, side)}
    return sorted(sizes)


def kohya_fit(size: Size, buckets: Sequence[Size]) -> Crop:
    """The crop that brings an image to the bucket of its own size if there is one, else of the nearest aspect ratio."""
    width, height = size
    ratio = width / height
    bucket = size if size in buckets else min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))
    scale = bucket[1] / height if ratio > bucket[0] / bucket[1] else bucket[0] / width
    return _center_crop((_round_half_up(width * scale), _round_half_up(height * scale)), bucket)


def kohya_fit_without_upscaling(size: Size, area: int, step: int) -> Crop:
    """The crop with ``bucket_no_upscale``: an image of more than ``area`` pixels is scaled down, sides rounded down.

    UserError for an image smaller than one step.
    """
    width, height = size
    if width * height > area:
        size = _scale_down(width / height, area, step)
    bucket = size[0] // step * step, size[1] // step * step
    if not min(bucket):
        raise UserError(
            f"is {width}x{height}, too small for a bucket of {step} pixels without upscaling. "
            "Remove it, or turn bucket_no_upscale off."
        )
    return _center_crop(size, bucket)


def _scale_down(ratio: float, area: int, step: int) -> Size:
    """About ``area`` pixels of this aspect ratio, with one side a multiple of the step: the side that distorts less."""
    width = math.sqrt(area * ratio)
    height = area / width
    rounded_width, rounded_height = _round_to_step(width, step), _round_to_step(height, step)
    ratio_by_width = rounded_width / max(1, _round_to_step(rounded_width / ratio, step))
    ratio_by_height = _round_to_step(rounded_height * ratio, step) / max(1, rounded_height)
    if abs(ratio_by_width - ratio) < abs(ratio_by_height - ratio):
        return rounded_width, _round_half_up(rounded_width / ratio)
    return _round_half_up(rounded_height * ratio), rounded_height


def _center_crop(resized: Size, bucket: Size) -> Crop:
    # Rounding may leave a side one pixel shorter than the bucket.
    width, height = max(resized[0], bucket[0]), max(resized[1], bucket[1])
    return Crop(width, height, (width - bucket[0]) // 2, (height - bucket[1]) // 2, *bucket)


def _round_half_up(value: float) -> int:
    return int(value + 0.5)


def _round_to_step(value: float, step: int) -> int:
    return _round_half_up(value) // step * step
