"""From whatever a picture file holds to upright sRGB of 8 bits per channel, as a person sees it."""

from __future__ import annotations

import functools
import io
import logging
from typing import TYPE_CHECKING, cast

from dreambooth.images.issues import named

if TYPE_CHECKING:
    from PIL import Image, ImageCms

log = logging.getLogger("dreambooth.dataset")

Finding = tuple[str, str]  # kind of note (notes.KINDS), text

ORIENTATION = 0x0112  # EXIF
_SEEN_AS_SRGB = 3  # of 255: colour profiles that differ less are sRGB under another name
_RELATIVE_COLORIMETRIC = 1
_FLAGS = 0x2000 | 0x0040  # black point compensation; no cache, so that threads can share a transform


def upright(image: Image.Image) -> tuple[Image.Image, list[Finding]]:
    """Turned and mirrored as the camera noted in the EXIF orientation tag."""
    from PIL import Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    try:
        orientation = orientation_of(image)
    except Exception:  # the note is damaged, the picture is not: every viewer shows it unturned
        log.debug("unreadable EXIF data", exc_info=True)
        return image, [("exif-damaged", "its EXIF data can't be read, so it is not turned.")]
    if orientation not in turns:
        return image, []
    said = f"turned upright, as its EXIF orientation ({orientation}) says."
    return image.transpose(turns[orientation]), [("turned", said)]


def to_rgb(image: Image.Image) -> tuple[Image.Image, list[Finding]]:
    """A loaded picture of any mode as sRGB, and what that took."""
    profile = image.info.get("icc_profile") or b""
    if image.mode == "CMYK":
        rgb, said = _managed(image, profile, "CMYK")
        return rgb or image.convert("RGB"), [("cmyk", "is in print colours (CMYK), converted to RGB."), *said]
    if image.mode == "LAB":
        return _from_lab(image), [("profile", "is in Lab colours, converted to sRGB.")]
    findings: list[Finding] = []
    grey = image.mode in ("1", "L", "LA", "La") or _is_deep_grey(image)
    if _is_deep_grey(image):
        image = _eight_bits(image)
    if has_alpha(image):
        image, seen_through = _on_white(image)
        if seen_through:
            findings.append(("transparent", "is transparent in places, laid on white."))
    if not profile:
        return _rgb(image), findings
    rgb, said = _managed(image, profile, "L" if grey else "RGB")
    return rgb or _rgb(image), findings + said


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def is_deep(image: Image.Image) -> bool:
    """Whether a picture that is not yet loaded has more than 8 bits per channel."""
    tiles = getattr(image, "tile", ())  # of an image read from a file
    raw = tiles[0][3] if tiles else ""
    raw = raw if isinstance(raw, str) else raw[0] if raw else ""
    return _is_deep_grey(image) or ";16" in str(raw)


def orientation_of(image: Image.Image) -> int | None:
    raw = image.info.get("exif") or b""
    if raw and not raw.removeprefix(b"Exif\0\0").startswith((b"II", b"MM")):  # Pillow says it once, at opening
        raise ValueError("not a TIFF header")
    return image.getexif().get(ORIENTATION)


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floats, as L. Pillow's own conversion clips at 255 and leaves nearly all white."""
    floats = image.mode == "F"
    image = image if floats else image.convert("I")
    brightest = cast(float, image.getextrema()[1])  # there is one band
    whites = (1, 255, 65535) if floats else (65535,)
    white = next((value for value in whites if brightest <= value), brightest)
    return image.point(lambda value: value * (255 / white) + 0.5).convert("L")


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """As RGB, and whether white shows anywhere."""
    from PIL import Image

    picture = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = picture.getchannel("A")
    opaque = alpha.getextrema()[0] == 255
    if opaque:
        return picture.convert("RGB"), False
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=alpha)
    return white, True


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return _applied(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    from PIL import ImageCms

    return cast("Image.Image", ImageCms.applyTransform(image, transform))  # None only for a change in place


def _managed(image: Image.Image, profile: bytes, mode: str) -> tuple[Image.Image | None, list[Finding]]:
    """The picture's colours brought from its profile to sRGB; None where they are sRGB, or the profile can't be used.

    ``mode``: what the picture's colours are, L, RGB or CMYK.
    """
    from PIL import ImageCms

    if not profile:
        return None, []
    try:
        transform, name = _transform(profile, mode)
        if transform is None:
            return None, []
        image = image if image.mode == transform.input_mode else image.convert(transform.input_mode)
        return ImageCms.applyTransform(image, transform), [("profile", f"colours converted from {name} to sRGB.")]
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError) as error:
        log.debug("unusable colour profile", exc_info=True)
        return None, [("profile-damaged", f"its colour profile can't be used ({error}), colours taken as sRGB.")]


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """What brings colours of a profile to sRGB, and the profile's name; None where nothing would be seen of it."""
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue] (it is a CmsProfile)
    modes = {"RGB": ("RGB", "L"), "GRAY": ("L",), "CMYK": ("CMYK",)}
    if mode not in modes.get(space, ()):
        raise ValueError(f"it is for {space} and the picture is {mode}")
    own = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
    transform = ImageCms.buildTransform(
        source, ImageCms.createProfile("sRGB"), own, "RGB",
        renderingIntent=_RELATIVE_COLORIMETRIC,  # pyright: ignore[reportArgumentType] (older Pillows have no Intent)
        flags=_FLAGS,  # pyright: ignore[reportArgumentType] (nor Flags)
    )  # fmt: skip
    name = named(ImageCms.getProfileDescription(source).strip() or "its colour profile")
    if own == "CMYK":
        return transform, name
    levels = bytes(range(0, 256, 51))
    colours = bytes(c for r in levels for g in levels for b in levels for c in (r, g, b)) if own == "RGB" else levels
    sample = Image.frombytes(own, (len(colours) // len(own), 1), colours)
    before, after = sample.convert("RGB").tobytes(), _applied(sample, transform).tobytes()
    the_same = max(abs(a - b) for a, b in zip(before, after, strict=True)) <= _SEEN_AS_SRGB
    return (None if the_same else transform), name
