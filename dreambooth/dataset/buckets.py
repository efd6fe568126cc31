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

_LATENT = 8  # one latent pixel covers 8 x 8 picture pixels in every Stable Diffusion VAE
_LONGEST = 2.0  # long side : short side; beyond it, composition suffers more than from cropping


@dataclass(frozen=True)
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

    @property
    def kept(self) -> float:
        """Share of the picture's area that stays, 0 to 1."""
        return self.width * self.height / (self.resized_w * self.resized_h)


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """The buckets for a resolution: the square, and every shape up to 2:1 either way, narrowest first.

    Sides are multiples of `step`, the area is at most resolution^2 (so memory is that of the square), and
    no side could be a step longer within that area. Example: 512 with step 64 gives 384x640, 448x576,
    512x512, 576x448, 640x384. Raises UserError for a step that isn't a multiple of 8 or is too large.
    """
    if step < _LATENT or step % _LATENT:
        raise UserError(f"bucket_step: {step} is not a multiple of {_LATENT}. Take 64, or 8 for more shapes.")
    if resolution < step:
        raise UserError(f"resolution: {resolution} is smaller than bucket_step ({step}). Take a larger one.")
    area = resolution * resolution
    square = resolution // step * step
    sizes = {(square, square)}
    for width in range(step, int(_LONGEST * resolution) + 1, step):
        height = area // width // step * step
        could_be_wider = (width + step) * height <= area
        if height and not could_be_wider and max(width, height) <= _LONGEST * min(width, height):
            sizes.add((width, height))
    return sorted(sizes)


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
