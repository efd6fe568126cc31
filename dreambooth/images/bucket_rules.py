"""The bucket rule of a run (own buckets, kohya's, or one fixed size), from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.errors import UserError
from dreambooth.images.buckets import Crop, Size, bucket_sizes, bucket_without_upscaling, fit, rounding_warning
from dreambooth.images.kohya_buckets import kohya_fit, kohya_fit_without_upscaling, kohya_sizes
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE

if TYPE_CHECKING:
    from dreambooth.settings import Settings


class BucketRule:
    """Assigns images to buckets.

    ``multiple``: what sides are multiples of, see :class:`dreambooth.models.latents.LatentCodec`. UserError for
    settings that leave no bucket.
    """

    def __init__(self, settings: Settings, multiple: int = DEFAULT_PIXEL_MULTIPLE) -> None:
        self.rule, self.step = settings.bucket_rule, settings.bucket_step
        self.upscales = not settings.bucket_no_upscale or self.rule == "one size"
        width, height = settings.resolution, settings.resolution_height or settings.resolution
        self.area = width * height
        self._side_limits = settings.bucket_min_side, settings.bucket_max_side
        self._resolution = width
        if self.rule == "one size":
            self.sizes = [_require_multiple(width, height, multiple)]
        elif self.rule == "kohya":
            self.sizes = kohya_sizes(width, height, self.step, *self._side_limits, multiple)
        else:
            self.sizes = bucket_sizes(width, self.step, *self._side_limits, multiple)

    def crop(self, size: Size, upscale: bool = False) -> Crop:
        """The resize and crop of an image of this size. ``upscale`` overrides ``bucket_no_upscale``.

        UserError, without the file's name, for an image that is too small.
        """
        if self.rule == "area":
            nearest = fit(size, self.sizes)
            needs_no_upscaling = nearest.resized_w <= size[0] and nearest.resized_h <= size[1]
            if self.upscales or upscale or needs_no_upscaling:
                return nearest
            return fit(size, [bucket_without_upscaling(size, self._resolution, self.step, *self._side_limits)])
        if self.upscales or upscale:
            return kohya_fit(size, self.sizes)
        return kohya_fit_without_upscaling(size, self.area, self.step)

    def warnings(self) -> list[str]:
        """Settings that work, but probably not as intended."""
        warning = rounding_warning(self._resolution, self.step) if self.rule == "area" else ""
        return [warning] if warning else []


def _require_multiple(width: int, height: int, multiple: int) -> Size:
    wrong = [side for side in (width, height) if side % multiple]
    if wrong:
        raise UserError(
            f"resolution: {wrong[0]} is not a multiple of {multiple}, which image sides must be. "
            f"Use {wrong[0] // multiple * multiple}."
        )
    return width, height
