"""Buckets as kohya's sd-scripts have them: which there are, which one a picture goes to, how it is cropped.

Beside our own rule (:mod:`dreambooth.images.buckets`) the shapes go further than 2:1, nearness is the difference of
the ratios (so that tall pictures find theirs less exactly than wide ones), and sizes are rounded half up. Written
after what sd-scripts does (commit 48d368f), so that an imported configuration gives the same pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dreambooth.errors import UserError
from dreambooth.images.buckets import Crop, Size, require_step


def kohya_sizes(width: int, height: int, step: int, shortest: int = 0, longest: int = 0) -> list[Size]:
    """All buckets for a resolution of ``width`` x ``height``, in order. ``shortest`` and ``longest`` bound the sides.

    0 is half of the resolution and twice of it (256 and 1024 for 512). The bounds are widened to multiples of the
    step. Raises UserError for a step that can't be, and for bounds within the resolution.
    """
    require_step(min(width, height), step)
    shortest, longest = shortest or min(width, height) // 2, longest or 2 * max(width, height)
    shortest, longest = max(step, shortest // step * step), -(-longest // step) * step
    problems = []
    if min(width, height) < shortest:
        problems.append(
            f"bucket_min_side: {shortest} is more than the resolution ({min(width, height)}). Take it or less."
        )
    if max(width, height) > longest:
        problems.append(
            f"bucket_max_side: {longest} is less than the resolution ({max(width, height)}). Take it or more."
        )
    if problems:
        raise UserError.from_problems(problems)
    area = width * height
    square = int(math.sqrt(area) // step) * step
    sizes = {(square, square)}
    for side in range(shortest, longest + 1, step):
        other = min(longest, area // side // step * step)
        if other >= shortest:
            sizes |= {(side, other), (other, side)}
    return sorted(sizes)


def kohya_fit(size: Size, buckets: Sequence[Size]) -> Crop:
    """The crop that brings a picture into its own size, where that is a bucket, or the one of the nearest ratio."""
    width, height = size
    ratio = width / height
    chosen = size if size in buckets else min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))
    scale = chosen[1] / height if ratio > chosen[0] / chosen[1] else chosen[0] / width
    return _centred((_half_up(width * scale), _half_up(height * scale)), chosen)


def kohya_unenlarged(size: Size, area: int, step: int) -> Crop:
    """The crop where nothing is enlarged: a picture of more pixels than ``area`` is made smaller, sides rounded down.

    Raises UserError for a picture that is smaller than one step.
    """
    width, height = size
    if width * height > area:
        size = _made_smaller(width / height, area, step)
    bucket = size[0] // step * step, size[1] // step * step
    if not min(bucket):
        raise UserError(
            f"is {width}x{height}, too small for a bucket of {step} pixels without enlarging it. "
            "Leave it out, or switch bucket_no_upscale off."
        )
    return _centred(size, bucket)


def _made_smaller(ratio: float, area: int, step: int) -> Size:
    """About ``area`` pixels of this ratio, with the one side a multiple of the step that bends the ratio least."""
    width = math.sqrt(area * ratio)
    height = area / width
    of_width, of_height = _to_step(width, step), _to_step(height, step)
    ratio_by_width = of_width / max(1, _to_step(of_width / ratio, step))
    ratio_by_height = _to_step(of_height * ratio, step) / max(1, of_height)
    if abs(ratio_by_width - ratio) < abs(ratio_by_height - ratio):
        return of_width, _half_up(of_width / ratio)
    return _half_up(of_height * ratio), of_height


def _centred(resized: Size, bucket: Size) -> Crop:
    # Rounding may leave a side a pixel short of its bucket; then it is made to fit.
    width, height = max(resized[0], bucket[0]), max(resized[1], bucket[1])
    return Crop(width, height, (width - bucket[0]) // 2, (height - bucket[1]) // 2, *bucket)


def _half_up(value: float) -> int:
    return int(value + 0.5)


def _to_step(value: float, step: int) -> int:
    return _half_up(value) // step * step
