"""Crops of single images: to a bucket, by size alone, or moved to the salient part (smart crop)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dreambooth.images.buckets import Crop, Size, fit

if TYPE_CHECKING:
    from PIL import Image

_SALIENCY_SIDE = 64  # pixels: the size of the published method; smaller detail is texture
_TOP_TO_BOTTOM_WEIGHT = (1.5, 0.5)  # tuned on portraits, whose heads saliency alone cut off
_MAX_POSITIONS = 4096  # that are tried: an image may be millions of pixels long and one high
_TIE = 0.02  # of the total saliency: positions that differ by less are equally good


def resize_only(size: Size, long_side: int = 0, upscale: bool = False) -> Crop:
    """The whole image, resized so that its longer side has ``long_side`` pixels; 0 keeps its size."""
    scale = long_side / max(size) if long_side else 1.0
    if scale > 1 and not upscale:
        scale = 1.0
    width, height = (max(1, round(side * scale)) for side in size)
    return Crop(width, height, 0, 0, width, height)


def crop_to_bucket(size: Size, buckets: Sequence[Size], upscale: bool = False) -> Crop:
    """The crop that training would make.

    An image that this would upscale is cropped to exactly the bucket's aspect ratio at its own resolution, unless
    ``upscale``: training then upscales it without cropping more.
    """
    crop = fit(size, buckets)
    if upscale or (crop.resized_w <= size[0] and crop.resized_h <= size[1]):
        return crop
    divisor = math.gcd(*crop.bucket)
    ratio_w, ratio_h = crop.width // divisor, crop.height // divisor  # the aspect ratio in smallest integers
    multiple = min(size[0] // ratio_w, size[1] // ratio_h)
    if not multiple:
        return resize_only(size)
    width, height = ratio_w * multiple, ratio_h * multiple
    return Crop(*size, (size[0] - width) // 2, (size[1] - height) // 2, width, height)


def apply_crop(image: Image.Image, crop: Crop) -> Image.Image:
    """The image resized (Lanczos) and cropped."""
    from PIL import Image

    # Only the part inside the crop is resized, so that a very long image is not upscaled as a whole.
    return image.resize(crop.bucket, Image.Resampling.LANCZOS, box=crop.box_in(image.size))


def smart_crop(image: Image.Image, crop: Crop) -> Crop:
    """``crop`` moved to where it contains most of the saliency of the (upright RGB) image.

    Among about equal positions it takes the middle one, so that a plain image, or one whose subject fits anyway, is
    cropped around the subject.
    """
    saliency = _saliency(image)
    return replace(
        crop,
        left=_best_position(saliency.sum(axis=0), crop.resized_w, crop.width),
        top=_best_position(saliency.sum(axis=1), crop.resized_h, crop.height),
    )


def _best_position(profile: Any, length: int, window: int) -> int:
    """The start of the window of ``window`` pixels that contains most of a profile stretched over ``length`` pixels."""
    import numpy as np

    slack = length - window
    total = profile.sum()
    if slack <= 0 or total <= 0:
        return max(0, slack) // 2
    # With the profile's integral, the sum within a window is one subtraction.
    edges, integral = np.linspace(0, length, len(profile) + 1), np.concatenate([[0.0], np.cumsum(profile)])
    starts = np.linspace(0, slack, min(slack, _MAX_POSITIONS) + 1).round()
    inside = (np.interp(starts + window, edges, integral) - np.interp(starts, edges, integral)) / total
    best = starts[inside >= inside.max() - _TIE]
    return int(best[len(best) // 2]) if inside.max() - inside.min() > _TIE else slack // 2


def _saliency(image: Image.Image) -> Any:
    """Saliency by the spectral residual, a (64, 64) array; needs no model.

    Xiaodi Hou and Liqing Zhang, "Saliency Detection: A Spectral Residual Approach" (CVPR 2007): the log spectrum minus
    its local average, transformed back, is high where the image does not repeat itself. The upper part is weighted
    more: heads are there, and a crop that loses feet loses less.
    """
    import numpy as np
    from PIL import Image

    small = image.convert("L").resize((_SALIENCY_SIDE, _SALIENCY_SIDE), Image.Resampling.BOX)
    gray = np.asarray(small, dtype=np.float64)
    if gray.max() - gray.min() < 2:
        return np.zeros_like(gray)  # one color: its spectrum is only rounding errors
    spectrum = np.fft.fft2(gray)
    log = np.log(np.abs(spectrum) + 1e-9)
    residual = np.exp(log - _box_blur(log, 1) + 1j * np.angle(spectrum))
    weights = np.linspace(*_TOP_TO_BOTTOM_WEIGHT, _SALIENCY_SIDE)[:, None]
    return _box_blur(np.abs(np.fft.ifft2(residual)) ** 2, 2) * weights


def _box_blur(values: Any, radius: int) -> Any:
    """The mean over a square around each value; the array wraps around, as in the Fourier transform."""
    import numpy as np

    shifts = range(-radius, radius + 1)
    return sum(np.roll(values, (y, x), (0, 1)) for y in shifts for x in shifts) / len(shifts) ** 2
