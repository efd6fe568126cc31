"""The latents of Stable Diffusion, for estimates where no model is chosen. Loads without torch."""

from __future__ import annotations

from dreambooth.models.latents import LatentCodec
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE

DEFAULT_CODEC = LatentCodec(channels=4, downscale=DEFAULT_PIXEL_MULTIPLE)
