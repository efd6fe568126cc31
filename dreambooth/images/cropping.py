"""Which part of a picture stays: cutting it out, and choosing it by what stands out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dreambooth.images.buckets import Crop, Size, fit

if TYPE_CHECKING:
    from PIL import Image

_SIDE = 64  # pixels: the size that the measure was published for; smaller detail is texture
_TOP_TO_BOTTOM = (1.5, 0.5)  # how much what stands out counts; tried on portraits that the measure alone beheaded
_PLACES = 4096  # at most so many are tried: a picture may be millions of pixels long and one high
_ABOUT_EQUAL = 0.02  # of all that stands out: places that differ by less are equally good


def uncropped(size: Size, long_side: int = 0, enlarge: bool = False) -> Crop:
    """The whole picture, resized so that its longer side has so many pixels; 0: as it is."""
    scale = long_side / max(size) if long_side else 1.0
    if scale > 1 and not enlarge:
        scale = 1.0
    width, height = (max(1, round(side * scale)) for side in size)
    return Crop(width, height, 0, 0, width, height)


def to_bucket(size: Size, buckets: Sequence[Size], enlarge: bool = False) -> Crop:
    """The crop to a bucket as training makes it.

    A picture that this would enlarge is cut to exactly the bucket's shape at its own size, unless ``enlarge``: training
    then enlarges it without cutting off more.
    """
    crop = fit(size, buckets)
    if enlarge or (crop.resized_w <= size[0] and crop.resized_h <= size[1]):
        return crop
    part = math.gcd(*crop.bucket)
    across, down = crop.width // part, crop.height // part  # the shape in smallest whole numbers
    times = min(size[0] // across, size[1] // down)
    if not times:
        return uncropped(size)
    width, height = across * times, down * times
    return Crop(*size, (size[0] - width) // 2, (size[1] - height) // 2, width, height)


def cut(image: Image.Image, crop: Crop) -> Image.Image:
    """The picture resized (Lanczos) and cropped."""
    from PIL import Image

    # Resizing only the part that stays keeps a very long picture from being enlarged as a whole.
    return image.resize(crop.bucket, Image.Resampling.LANCZOS, box=crop.box_in(image.size))


def smart(image: Image.Image, crop: Crop) -> Crop:
    """``crop`` moved to where it keeps most of what stands out in the (upright RGB) picture.

    Of places that keep about the same, the one in their middle: a plain picture, or one whose subject fits in
    anyway, is cropped around it.
    """
    saliency = _saliency(image)
    return replace(
        crop,
        left=_place(saliency.sum(axis=0), crop.resized_w, crop.width),
        top=_place(saliency.sum(axis=1), crop.resized_h, crop.height),
    )


def _place(profile: Any, length: int, window: int) -> int:
    """Where a window of so many pixels keeps most of the profile, which is spread over ``length`` pixels."""
    import numpy as np

    slack = length - window
    total = profile.sum()
    if slack <= 0 or total <= 0:
        return max(0, slack) // 2
    # The profile's integral, so that each window's share is one subtraction.
    ends, integral = np.linspace(0, length, len(profile) + 1), np.concatenate([[0.0], np.cumsum(profile)])
    places = np.linspace(0, slack, min(slack, _PLACES) + 1).round()
    kept = (np.interp(places + window, ends, integral) - np.interp(places, ends, integral)) / total
    good = places[kept >= kept.max() - _ABOUT_EQUAL]
    return int(good[len(good) // 2]) if kept.max() - kept.min() > _ABOUT_EQUAL else slack // 2


def _saliency(image: Image.Image) -> Any:
    """How much each part stands out: a (64, 64) array. By the spectral residual, which needs no model.

    Xiaodi Hou and Liqing Zhang, "Saliency Detection: A Spectral Residual Approach" (CVPR 2007): what is left of the
    log spectrum without its local average is what does not repeat itself, back in the picture. Its upper parts count
    more: heads are there, and a crop that loses feet loses less.
    """
    import numpy as np
    from PIL import Image

    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float64)
    if grey.max() - grey.min() < 2:
        return np.zeros_like(grey)  # one colour: its spectrum is nothing but rounding
    spectrum = np.fft.fft2(grey)
    log = np.log(np.abs(spectrum) + 1e-9)
    residual = np.exp(log - _blurred(log, 1) + 1j * np.angle(spectrum))
    return _blurred(np.abs(np.fft.ifft2(residual)) ** 2, 2) * np.linspace(*_TOP_TO_BOTTOM, _SIDE)[:, None]


def _blurred(values: Any, radius: int) -> Any:
    """The mean over a square around each value; the array goes on at its other end, as for the transform."""
    import numpy as np

    shifts = range(-radius, radius + 1)
    return sum(np.roll(values, (y, x), (0, 1)) for y in shifts for x in shifts) / len(shifts) ** 2
