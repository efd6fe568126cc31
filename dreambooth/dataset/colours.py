"""Colour profiles: bringing a picture's colours to sRGB, which is what training takes all numbers for."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("dreambooth.dataset")


def foreign_profile(image: Image.Image) -> str:
    """The name of the picture's colour profile; "" where it has none, has sRGB's, or one that can't be used."""
    if not image.info.get("icc_profile") or image.mode.startswith("I"):
        return ""
    try:
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        name = " ".join(ImageCms.getProfileDescription(profile).split())
        _transform(image)
    except Exception:  # damaged, or for other channels than the picture has: every viewer leaves it aside
        log.debug("unusable colour profile", exc_info=True)
        return ""
    return "" if "srgb" in name.lower() else name or "a profile without a name"


def in_srgb(image: Image.Image) -> Image.Image:
    """The picture with sRGB's numbers for the colours of its :func:`foreign_profile`; RGB, without transparency."""
    from PIL import ImageCms

    mode = mode_without_alpha(image)
    return ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), _transform(image))


def mode_without_alpha(image: Image.Image) -> str:
    """The channels that its colour profile speaks of."""
    return {"LA": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")


def _transform(image: Image.Image) -> Any:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode_without_alpha(image), "RGB")
