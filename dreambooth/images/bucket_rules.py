"""Which rule brings a picture into a bucket, as the settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth.errors import UserError
from dreambooth.images.buckets import LATENT, Crop, Size, bucket_sizes, fit, unenlarged, uneven
from dreambooth.images.kohya_buckets import kohya_fit, kohya_sizes, kohya_unenlarged

if TYPE_CHECKING:
    from dreambooth.settings import Settings


class BucketRule:
    """The crops of a run. Raises UserError for settings that leave no bucket."""

    def __init__(self, settings: Settings) -> None:
        self.rule, self.step = settings.bucket_rule, settings.bucket_step
        self.enlarges = not settings.bucket_no_upscale or self.rule == "one size"
        width, height = settings.resolution, settings.resolution_height or settings.resolution
        self.area = width * height
        self._bounds = settings.bucket_min_side, settings.bucket_max_side
        self._resolution = width
        if self.rule == "one size":
            self.sizes = [_whole(width, height)]
        elif self.rule == "kohya":
            self.sizes = kohya_sizes(width, height, self.step, *self._bounds)
        else:
            self.sizes = bucket_sizes(width, self.step, *self._bounds)

    def crop(self, size: Size, enlarge: bool = False) -> Crop:
        """How a picture of this size is shown. ``enlarge``: it may be, whatever the settings say.

        Raises UserError, without the file's name, for one that is too small.
        """
        if self.rule == "area":
            usual = fit(size, self.sizes)
            fits = usual.resized_w <= size[0] and usual.resized_h <= size[1]
            if self.enlarges or enlarge or fits:
                return usual
            return fit(size, [unenlarged(size, self._resolution, self.step, *self._bounds)])
        if self.enlarges or enlarge:
            return kohya_fit(size, self.sizes)
        return kohya_unenlarged(size, self.area, self.step)

    def doubts(self) -> list[str]:
        """What a person should know of these settings."""
        said = uneven(self._resolution, self.step) if self.rule == "area" else ""
        return [said] if said else []


def _whole(width: int, height: int) -> Size:
    odd = [side for side in (width, height) if side % LATENT]
    if odd:
        raise UserError(f"resolution: {odd[0]} is not a multiple of {LATENT} (one latent). Take {odd[0] // 8 * 8}.")
    return width, height
