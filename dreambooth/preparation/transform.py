"""Transformation of one image file: the steps it needs, and the bytes of the new file.

Decoding is the same as in training (EXIF orientation, conversion to 8-bit sRGB, first frame of an animation; see
:func:`decode_image`), except that transparency can be kept.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.images.buckets import Crop, Size
from dreambooth.images.color import ORIENTATION, apply_orientation, has_alpha, to_rgb
from dreambooth.images.cropping import apply_crop
from dreambooth.images.decoding import DecodedImage, decode_image, decode_to_rgb
from dreambooth.settings.preparation import AS_IT_IS, WEBP_LOSSLESS, PrepareOptions

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

log = logging.getLogger("dreambooth.dataset")

# Extensions of the formats, the preferred one first. Images of other formats become PNG, which is lossless.
EXTENSIONS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
}
_FORMAT_OF_OPTION = {"PNG": "PNG", "JPEG": "JPEG", "WebP": "WEBP", WEBP_LOSSLESS: "WEBP"}
_REENCODED_IN_THEIR_FORMAT = ("PNG", "JPEG", "WEBP", "BMP")
_SUPPORTS_ALPHA = ("PNG", "WEBP")
# Findings of decoding (issues.ISSUE_KINDS) as steps.
_DECODING_STEPS = {
    "cmyk": "CMYK converted to sRGB",
    "deep": "reduced to 8 bits per channel",
    "animated": "first frame only",
}

# Pillow's technical information about a file. Everything else is metadata.
_TECHNICAL = frozenset(
    {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression", "adobe",
     "adobe_transform", "icc_profile", "gamma", "transparency", "srgb", "chromaticity", "aspect", "interlace", "loop",
     "duration", "background", "default_image", "compression", "blend", "disposal", "timestamp", "version",
     "extension"}
)  # fmt: skip


@dataclass(frozen=True)
class ImageProperties:
    """The properties of an image file that decide which steps it needs."""

    format: str  # Pillow's name, JPEG for MPO too
    lossless: bool
    alpha: bool
    rotated: bool  # its EXIF orientation is not upright
    metadata: bool  # False as well if not inspected
    profile: str  # description of its color conversion to sRGB; "" if it is sRGB
    decoding_steps: tuple[str, ...]  # descriptions of other conversions by decoding


@dataclass(frozen=True)
class ImageTransform:
    """The transformation of one image: crop, mirror, encode."""

    crop: Crop
    mirrored: bool
    format: str  # Pillow's name of the new format
    lossless: bool
    reencode: bool  # False: the file is copied
    steps: tuple[str, ...]  # descriptions


def image_properties(data: bytes, path: Path, decoded: DecodedImage, inspect_metadata: bool = False) -> ImageProperties:
    """The properties of an image. Inspecting metadata reads a PNG to its end once more."""
    from PIL import Image

    findings = dict(decoded.findings)
    with _errors_named(path), Image.open(io.BytesIO(data)) as image:
        format_name = "JPEG" if image.format == "MPO" else image.format or ""
        return ImageProperties(
            format=format_name,
            lossless=format_name not in ("JPEG", "AVIF") and (format_name != "WEBP" or b"VP8L" in data),
            alpha="deep" not in findings and has_alpha(image),
            rotated="turned" in findings,
            metadata=inspect_metadata and _has_metadata(image),
            profile=findings.get("profile", "").rstrip("."),
            decoding_steps=tuple(step for kind, step in _DECODING_STEPS.items() if kind in findings),
        )


def plan_transform(
    properties: ImageProperties, size: Size, crop: Crop, mirrored: bool, options: PrepareOptions
) -> ImageTransform:
    """The transformation of an image of this (upright) ``size``."""
    format_name, lossless = _target_format(properties, options)
    steps = [
        *_geometry_steps(properties, size, crop, mirrored),
        *_content_steps(properties, format_name, options),
    ]
    is_same_format = (format_name, lossless) == (properties.format, properties.lossless)
    may_stay = is_same_format or (options.format == AS_IT_IS and properties.format in EXTENSIONS)
    if not steps and may_stay:
        return ImageTransform(crop, mirrored, properties.format, properties.lossless, reencode=False, steps=())
    steps.append(f"saved as {_describe_format(format_name, lossless, options.quality)}")
    return ImageTransform(
        crop, mirrored, format_name, lossless, reencode=True, steps=(*steps, *properties.decoding_steps)
    )


def transform_image(data: bytes, path: Path, transform: ImageTransform, options: PrepareOptions) -> bytes:
    """The new file's bytes, deterministic for a file and options. UserError names the file."""
    if not transform.reencode:
        return data
    with _errors_named(path):
        image = _mirror(apply_crop(_decode(data, path, transform.format, options), transform.crop), transform)
        return _encode(image, transform.format, path, **_encoder_options(data, transform, options))


def transform_mask(data: bytes, path: Path, size: Size, transform: ImageTransform) -> bytes:
    """The mask's bytes (PNG), transformed as its image of this ``size``."""
    mask = decode_to_rgb(data, path).convert("L").resize(size)
    return _encode(_mirror(apply_crop(mask, transform.crop), transform), "PNG", path)


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Turn any exception into a UserError for this file: Pillow raises nearly any type for unusual files."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        log.debug("%s can't be prepared", path, exc_info=True)
        raise UserError(f"{path}: can't be prepared ({error or type(error).__name__}).") from error


def _target_format(properties: ImageProperties, options: PrepareOptions) -> tuple[str, bool]:
    """(format, whether it is lossless) of an image that is encoded again."""
    if options.format != AS_IT_IS:
        return _FORMAT_OF_OPTION[options.format], options.format in ("PNG", WEBP_LOSSLESS)
    if properties.format in _REENCODED_IN_THEIR_FORMAT:
        return properties.format, properties.lossless
    return "PNG", True


def _geometry_steps(properties: ImageProperties, size: Size, crop: Crop, mirrored: bool) -> list[str]:
    steps = ["rotated according to EXIF"] * properties.rotated
    resized = crop.resized_w, crop.resized_h
    if resized != size:
        verb = "upscaled" if resized[0] > size[0] or resized[1] > size[1] else "resized"
        steps.append(f"{verb} to {resized[0]}x{resized[1]}")
    if crop.bucket != resized:
        steps.append(f"cropped to {crop.width}x{crop.height}")
    return steps + ["mirrored"] * mirrored


def _content_steps(properties: ImageProperties, format_name: str, options: PrepareOptions) -> list[str]:
    steps = []
    if properties.profile:
        steps.append(properties.profile)
    if properties.alpha and (options.flatten or format_name not in _SUPPORTS_ALPHA):
        steps.append(f"transparency flattened on {options.flatten or 'white'}")
    if properties.metadata and options.strip_metadata:
        steps.append("metadata removed")
    return steps


def _describe_format(format_name: str, lossless: bool, quality: int) -> str:
    name = "WebP" if format_name == "WEBP" else format_name
    if format_name == "WEBP" and lossless:
        return "lossless WebP"
    return name if lossless else f"{name}, quality {quality}"


# -- pixels ---------------------------------------------------------------------------------------------------


def _decode(data: bytes, path: Path, format_name: str, options: PrepareOptions) -> Image.Image:
    """The upright sRGB image: RGB, or RGBA if transparency is kept."""
    from PIL import Image, ImageColor

    decoded = decode_image(data, path)  # raises UnusableFile with the cause
    if not image_properties(data, path, decoded).alpha:
        return decoded.image
    with Image.open(io.BytesIO(data)) as image:
        upright = apply_orientation(image)[0].convert("RGBA")
    rgb, alpha = to_rgb(upright.convert("RGB"))[0], upright.getchannel("A")
    if options.flatten or format_name not in _SUPPORTS_ALPHA:
        background = Image.new("RGB", rgb.size, ImageColor.getrgb(options.flatten or "white")[:3])
        return Image.composite(rgb, background, alpha)
    rgb.putalpha(alpha)
    return rgb


def _has_metadata(image: Image.Image) -> bool:
    return bool(getattr(image, "text", None)) or not set(image.info) <= _TECHNICAL


def _mirror(image: Image.Image, transform: ImageTransform) -> Image.Image:
    from PIL import Image

    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if transform.mirrored else image


# -- encoding -------------------------------------------------------------------------------------------------


def _encoder_options(data: bytes, transform: ImageTransform, options: PrepareOptions) -> dict[str, Any]:
    """Pillow's options for the new file: quality and metadata."""
    from PIL import Image

    encoder_options: dict[str, Any] = {}
    if not options.strip_metadata:
        with Image.open(io.BytesIO(data)) as source:
            encoder_options |= _metadata(source, transform.format)
    if transform.format == "JPEG":
        encoder_options |= {"quality": options.quality, "subsampling": 0}  # colors at full resolution
    elif transform.format == "WEBP":
        encoder_options |= {"lossless": True} if transform.lossless else {"quality": options.quality}
    return encoder_options


def _metadata(image: Image.Image, format_name: str) -> dict[str, Any]:
    """The source's metadata that the new format supports, without the EXIF orientation, which is applied already."""
    from PIL import Image, PngImagePlugin

    metadata: dict[str, Any] = {}
    try:
        exif = image.getexif() if image.info.get("exif") else Image.Exif()
        exif.pop(ORIENTATION, None)
        if exif and format_name in ("JPEG", "PNG", "WEBP"):
            metadata["exif"] = exif.tobytes()
    except Exception:
        log.debug("unreadable EXIF data", exc_info=True)
    texts = getattr(image, "text", None)
    if texts and format_name == "PNG":
        metadata["pnginfo"] = PngImagePlugin.PngInfo()
        for name, text in texts.items():
            metadata["pnginfo"].add_text(name, text)
    return metadata


def _encode(image: Image.Image, format_name: str, path: Path, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.info = {}  # Pillow would write parts of it (profile, comment) by default
    try:
        image.save(stream, format_name, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be saved as {format_name} ({error}). Choose another format.") from error
    return stream.getvalue()
