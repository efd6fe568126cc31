"""Aspect buckets: a few picture sizes of about equal area, so that nothing is squeezed and little is cut.

All pictures of a batch share one size. Each picture goes to the bucket whose shape is nearest its own, is
resized until it covers it, and the overhang is cut off evenly on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth.errors import UserError

Size = tuple[int, int]  # width, height in pixels

LATENT = 8  # one latent pixel covers 8 x 8 picture pixels in every Stable Diffusion VAE
_LONGEST = 2.0  # long side : short side; beyond it, composition suffers more than from cropping


@dataclass(frozen=True, slots=True)
class Crop:
    """How a picture becomes its bucket's size: resize to `resized`, then cut out the box. In pixels."""

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
        """What is cut out, in the pixels of the picture before it is resized: left, top, right, bottom."""
        (width, height), across, down = size, size[0] / self.resized_w, size[1] / self.resized_h
        right, bottom = (self.left + self.width) * across, (self.top + self.height) * down
        return self.left * across, self.top * down, min(right, width), min(bottom, height)

    @property
    def kept(self) -> float:
        """Share of the picture's area that stays, 0 to 1."""
        return self.width * self.height / (self.resized_w * self.resized_h)


def bucket_sizes(resolution: int, step: int, shortest: int = 0, longest: int = 0) -> list[Size]:
    """The buckets for a resolution: the square, and every shape up to 2:1 either way, narrowest first.

    Sides are multiples of `step`, the area is at most resolution^2 (so memory is that of the square), and
    no side could be a step longer within that area. Example: 512 with step 64 gives 384x640, 448x576,
    512x512, 576x448, 640x384. `shortest` and `longest` bound the sides, 0 doesn't.
    Raises UserError for a step that isn't a multiple of 8 or is too large, and for bounds that leave no bucket.
    """
    require_step(resolution, step)
    _require_room(resolution, step, shortest, longest)
    area = resolution * resolution
    square = resolution // step * step
    sizes = {(square, square)}
    for width in range(step, int(_LONGEST * resolution) + 1, step):
        height = area // width // step * step
        could_be_wider = (width + step) * height <= area
        if height and not could_be_wider and max(width, height) <= _LONGEST * min(width, height):
            sizes.add((width, height))
    return sorted(size for size in sizes if min(size) >= shortest and max(size) <= (longest or max(size)))


def require_step(resolution: int, step: int) -> None:
    """UserError for a step that isn't a multiple of 8 or is larger than the resolution."""
    if step < LATENT or step % LATENT:
        raise UserError(
            f"bucket_step: {step} is not a multiple of {LATENT} (one latent). Take 64, or 8 for more shapes."
        )
    if resolution < step:
        raise UserError(f"resolution: {resolution} is smaller than bucket_step ({step}). Take a larger one.")


def uneven(resolution: int, step: int) -> str:
    """What to know of a resolution that is no multiple of the step; "" of one that is."""
    side = resolution // step * step
    if resolution == side:
        return ""
    return (
        f"resolution: {resolution} is not a multiple of bucket_step ({step}), so squares are {side}x{side}. "
        f"Take {side} or {side + step} to say what you mean."
    )


def unenlarged(size: Size, resolution: int, step: int, shortest: int = 0, longest: int = 0) -> Size:
    """The bucket of its own that a picture gets where none may be enlarged: no side is longer than the picture's.

    The picture is cut to 2:1 where it is longer, made smaller where it is too large, and its sides rounded down.
    Raises UserError for a picture that is smaller than any bucket may be.
    """
    width, height = size
    width, height = min(width, _LONGEST * height), min(height, _LONGEST * width)
    scale = min(1.0, resolution / math.sqrt(width * height), (longest or math.inf) / max(width, height))
    # Rounded first, so that 512 * 0.999... is 512.
    sides = [int(round(side * scale, 6)) // step * step for side in (width, height)]
    least = max(step, shortest)
    if min(sides) < least:
        raise UserError(
            f"is {size[0]}x{size[1]}, too small for a bucket of {least} pixels without enlarging it. "
            "Leave it out, or switch bucket_no_upscale off."
        )
    return sides[0], sides[1]


def _require_room(resolution: int, step: int, shortest: int, longest: int) -> None:
    square = resolution // step * step
    problems = []
    if shortest > square:
        problems.append(f"bucket_min_side: {shortest} is more than the square of {square}. Take {square} or less.")
    if longest and longest < square:
        problems.append(f"bucket_max_side: {longest} is less than the square of {square}. Take {square} or more.")
    if problems:
        raise UserError.from_problems(problems)


def fit(size: Size, buckets: Sequence[Size]) -> Crop:
    """The crop that brings a picture of `size` into the bucket of the nearest aspect ratio.

    Nearness is the ratio of the two ratios (3:2 is as far from 1:1 as 2:3 is); of two equally near ones
    the larger, then the first wins.
    """
    width, height = size

    def distance(bucket: Size) -> tuple[float, int]:
        # Rounded so that mirrored shapes tie exactly, whatever the last bit of the logarithm says.
        return round(abs(math.log(width * bucket[1] / (height * bucket[0]))), 9), -bucket[0] * bucket[1]

    bucket_w, bucket_h = min(buckets, key=distance)
    scale = max(bucket_w / width, bucket_h / height)
    resized_w = max(bucket_w, round(width * scale))
    resized_h = max(bucket_h, round(height * scale))
    left, top = (resized_w - bucket_w) // 2, (resized_h - bucket_h) // 2
    return Crop(resized_w, resized_h, left, top, bucket_w, bucket_h)
