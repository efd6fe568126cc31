"""Color management: an image of any mode, orientation and color profile to upright 8-bit sRGB."""

from __future__ import annotations

import functools
import io
import logging
from typing import TYPE_CHECKING, cast

from dreambooth.text import escape_unprintable

if TYPE_CHECKING:
    from PIL import Image, ImageCms

log = logging.getLogger("dreambooth.dataset")

Finding = tuple[str, str]  # a key of issues.ISSUE_KINDS, and the text

ORIENTATION = 0x0112  # the EXIF tag
_MAX_SRGB_DIFFERENCE = 3  # of 255: a profile that differs less is sRGB under another name
_RELATIVE_COLORIMETRIC = 1
_FLAGS = 0x2000 | 0x0040  # black point compensation; no cache, so that threads can share a transform


def apply_orientation(image: Image.Image) -> tuple[Image.Image, list[Finding]]:
    """The image rotated and mirrored according to its EXIF orientation tag."""
    from PIL import Image

    transpose = Image.Transpose
    transposes = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_270,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_90,
    }
    try:
        orientation = exif_orientation(image)
    except Exception:  # the tag is damaged, the image is not: every viewer shows it unrotated
        log.debug("unreadable EXIF data", exc_info=True)
        return image, [("exif-damaged", "its EXIF data can't be read, so it is not rotated.")]
    if orientation not in transposes:
        return image, []
    finding = ("turned", f"rotated according to its EXIF orientation ({orientation}).")
    return image.transpose(transposes[orientation]), [finding]


def to_rgb(image: Image.Image) -> tuple[Image.Image, list[Finding]]:
    """A loaded image of any mode as sRGB, and the conversions that it needed."""
    profile = image.info.get("icc_profile") or b""
    if image.mode == "CMYK":
        rgb, findings = _convert_profile(image, profile, "CMYK")
        return rgb or image.convert("RGB"), [("cmyk", "is CMYK, converted to RGB."), *findings]
    if image.mode == "LAB":
        return _lab_to_srgb(image), [("profile", "is in Lab colors, converted to sRGB.")]
    findings: list[Finding] = []
    is_gray = image.mode in ("1", "L", "LA", "La") or _is_high_bit_depth_gray(image)
    if _is_high_bit_depth_gray(image):
        image = _gray_to_8_bit(image)
    if has_alpha(image):
        image, is_transparent = _flatten_on_white(image)
        if is_transparent:
            findings.append(("transparent", "is transparent in places, flattened on white."))
    if not profile:
        return _convert_to_rgb(image), findings
    rgb, profile_findings = _convert_profile(image, profile, "L" if is_gray else "RGB")
    return rgb or _convert_to_rgb(image), findings + profile_findings


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def is_high_bit_depth(image: Image.Image) -> bool:
    """Whether an image that is not yet loaded has more than 8 bits per channel."""
    tiles = getattr(image, "tile", ())  # of an image read from a file
    raw = tiles[0][3] if tiles else ""
    raw = raw if isinstance(raw, str) else raw[0] if raw else ""
    return _is_high_bit_depth_gray(image) or ";16" in str(raw)


def exif_orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8; None without one. ValueError for damaged EXIF data."""
    raw = image.info.get("exif") or b""
    if raw and not raw.removeprefix(b"Exif\0\0").startswith((b"II", b"MM")):  # Pillow reports it only at opening
        raise ValueError("not a TIFF header")
    return image.getexif().get(ORIENTATION)


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_high_bit_depth_gray(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _gray_to_8_bit(image: Image.Image) -> Image.Image:
    """Gray of 16 or 32 bits, or floats, as L. Pillow's own conversion clips at 255, which leaves nearly all white."""
    is_float = image.mode == "F"
    image = image if is_float else image.convert("I")
    maximum = cast(float, image.getextrema()[1])  # there is one band
    white_levels = (1, 255, 65535) if is_float else (65535,)
    white = next((level for level in white_levels if maximum <= level), maximum)
    return image.point(lambda value: value * (255 / white) + 0.5).convert("L")


def _flatten_on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """(the image as RGB, whether any pixel was transparent)."""
    from PIL import Image

    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    is_opaque = alpha.getextrema()[0] == 255
    if is_opaque:
        return rgba.convert("RGB"), False
    background = Image.new("RGB", rgba.size, "white")
    background.paste(rgba, mask=alpha)
    return background, True


def _lab_to_srgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return _apply_transform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))


def _apply_transform(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    from PIL import ImageCms

    return cast("Image.Image", ImageCms.applyTransform(image, transform))  # None only for a change in place


def _convert_profile(image: Image.Image, profile: bytes, mode: str) -> tuple[Image.Image | None, list[Finding]]:
    """The image converted from its color profile to sRGB; None if it is sRGB already, or the profile is unusable.

    ``mode``: the mode of the image's colors, L, RGB or CMYK.
    """
    from PIL import ImageCms

    if not profile:
        return None, []
    try:
        transform, name = _profile_transform(profile, mode)
        if transform is None:
            return None, []
        image = image if image.mode == transform.input_mode else image.convert(transform.input_mode)
        return ImageCms.applyTransform(image, transform), [("profile", f"colors converted from {name} to sRGB.")]
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError) as error:
        log.debug("unusable color profile", exc_info=True)
        return None, [("profile-damaged", f"its color profile can't be used ({error}); sRGB is assumed.")]


@functools.lru_cache(maxsize=32)
def _profile_transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """(the transform from a profile to sRGB, the profile's name); no transform if it would change nothing visible."""
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue] (it is a CmsProfile)
    modes = {"RGB": ("RGB", "L"), "GRAY": ("L",), "CMYK": ("CMYK",)}
    if mode not in modes.get(space, ()):
        raise ValueError(f"it is for {space}, the image is {mode}")
    source_mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
    transform = ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), source_mode, "RGB",
        renderingIntent=_RELATIVE_COLORIMETRIC,  # pyright: ignore[reportArgumentType] (older Pillows have no Intent)
        flags=_FLAGS,  # pyright: ignore[reportArgumentType] (nor Flags)
    )  # fmt: skip
    name = escape_unprintable(ImageCms.getProfileDescription(source).strip() or "its color profile")
    if source_mode == "CMYK":
        return transform, name
    levels = bytes(range(0, 256, 51))
    is_rgb = source_mode == "RGB"
    colors = bytes(c for r in levels for g in levels for b in levels for c in (r, g, b)) if is_rgb else levels
    sample = Image.frombytes(source_mode, (len(colors) // len(source_mode), 1), colors)
    before, after = sample.convert("RGB").tobytes(), _apply_transform(sample, transform).tobytes()
    is_srgb = max(abs(a - b) for a, b in zip(before, after, strict=True)) <= _MAX_SRGB_DIFFERENCE
    return (None if is_srgb else transform), name
