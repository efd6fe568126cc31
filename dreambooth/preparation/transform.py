"""One picture file made into another one: what has to be done to it, and its new bytes.

Whatever training would do to the picture first (turn it upright, bring its colours to sRGB, take 8 bits of 16, the
first frame of an animation) is done by the same :func:`decoded`. Beyond it, transparency can stay.
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

# Endings of what is written, the usual one first. Other kinds become PNG, which loses nothing.
ENDINGS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
}
_WRITTEN = {"PNG": "PNG", "JPEG": "JPEG", "WebP": "WEBP", WEBP_LOSSLESS: "WEBP"}
_WRITTEN_AS_THEY_ARE = ("PNG", "JPEG", "WEBP", "BMP")
_HOLDS_ALPHA = ("PNG", "WEBP")
# What decoding notes (notes.KINDS), as a step of the work.
_DECODING = {
    "cmyk": "print colours become sRGB",
    "deep": "8 bits per channel stay",
    "animated": "only the first frame stays",
}

# What Pillow tells of a file beside its pixels and is no one's private matter. All else is metadata.
_TECHNICAL = frozenset(
    {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression", "adobe",
     "adobe_transform", "icc_profile", "gamma", "transparency", "srgb", "chromaticity", "aspect", "interlace", "loop",
     "duration", "background", "default_image", "compression", "blend", "disposal", "timestamp", "version",
     "extension"}
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a picture file is, as far as that decides what has to be done."""

    kind: str  # Pillow's name of the format, JPEG for MPO too
    lossless: bool
    alpha: bool
    turned: bool  # the camera noted that it has to be turned or mirrored
    metadata: bool  # False as well when nobody looked for it
    profile: str  # how its colours come to sRGB, in words; "" where they are
    decoding: tuple[str, ...]  # what else reading alone does to its pixels, in words


@dataclass(frozen=True)
class Recipe:
    """What is done to one picture, in this order."""

    crop: Crop
    mirrored: bool
    kind: str  # Pillow's name of the new format
    lossless: bool
    anew: bool  # False: the bytes stay as they are
    words: tuple[str, ...]


def facts(data: bytes, path: Path, seen: DecodedImage, look_for_metadata: bool = False) -> Facts:
    """Facts of a picture. Looking for metadata reads a PNG to its end once more."""
    from PIL import Image

    found = dict(seen.findings)
    with _in_words(path), Image.open(io.BytesIO(data)) as image:
        kind = "JPEG" if image.format == "MPO" else image.format or ""
        return Facts(
            kind=kind,
            lossless=kind != "JPEG" and kind != "AVIF" and (kind != "WEBP" or b"VP8L" in data),
            alpha="deep" not in found and has_alpha(image),
            turned="turned" in found,
            metadata=look_for_metadata and _has_metadata(image),
            profile=found.get("profile", "").rstrip("."),
            decoding=tuple(words for kind, words in _DECODING.items() if kind in found),
        )


def recipe(found: Facts, size: Size, crop: Crop, mirrored: bool, options: PrepareOptions) -> Recipe:
    """What has to be done to a picture of this ``size`` (upright) to make it what was chosen."""
    kind, lossless = _target(found, options)
    steps = [*_geometry(found, size, crop, mirrored), *_contents(found, kind, options)]
    same = (kind, lossless) == (found.kind, found.lossless)
    if not steps and (same or (options.format == AS_IT_IS and found.kind in ENDINGS)):
        return Recipe(crop, mirrored, found.kind, found.lossless, anew=False, words=())
    steps.append(f"written as {_called(kind, lossless, options.quality)}")
    return Recipe(crop, mirrored, kind, lossless, anew=True, words=(*steps, *found.decoding))


def prepared(data: bytes, path: Path, made: Recipe, options: PrepareOptions) -> bytes:
    """The new file's bytes; the same ones for the same file and options. UserError names the file."""
    if not made.anew:
        return data
    with _in_words(path):
        image = _mirrored(apply_crop(_pixels(data, path, made.kind, options), made.crop), made)
        return _saved(image, made.kind, path, **_how_written(data, made, options))


def prepared_mask(data: bytes, path: Path, size: Size, made: Recipe) -> bytes:
    """The mask's bytes (PNG), cut as its picture of this ``size`` is."""
    mask = decode_to_rgb(data, path).convert("L").resize(size)
    return _saved(_mirrored(apply_crop(mask, made.crop), made), "PNG", path)


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Pillow answers odd files with nearly any exception type: each means that this one can't be prepared."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        log.debug("%s can't be prepared", path, exc_info=True)
        raise UserError(f"{path}: can't be prepared ({error or type(error).__name__}).") from error


def _target(found: Facts, options: PrepareOptions) -> tuple[str, bool]:
    """(format, whether it loses nothing) of what is written anew."""
    if options.format != AS_IT_IS:
        return _WRITTEN[options.format], options.format in ("PNG", WEBP_LOSSLESS)
    return (found.kind, found.lossless) if found.kind in _WRITTEN_AS_THEY_ARE else ("PNG", True)


def _geometry(found: Facts, size: Size, crop: Crop, mirrored: bool) -> list[str]:
    steps = ["turned upright"] * found.turned
    resized = crop.resized_w, crop.resized_h
    if resized != size:
        how = "enlarged" if resized[0] > size[0] or resized[1] > size[1] else "resized"
        steps.append(f"{how} to {resized[0]}x{resized[1]}")
    if crop.bucket != resized:
        steps.append(f"cropped to {crop.width}x{crop.height}")
    return steps + ["mirrored"] * mirrored


def _contents(found: Facts, kind: str, options: PrepareOptions) -> list[str]:
    steps = []
    if found.profile:
        steps.append(found.profile)
    if found.alpha and (options.flatten or kind not in _HOLDS_ALPHA):
        steps.append(f"transparency laid on {options.flatten or 'white'}")
    if found.metadata and options.strip_metadata:
        steps.append("metadata removed")
    return steps


def _called(kind: str, lossless: bool, quality: int) -> str:
    name = "WebP" if kind == "WEBP" else kind
    if kind == "WEBP" and lossless:
        return "lossless WebP"
    return name if lossless else f"{name}, quality {quality}"


# -- pixels ---------------------------------------------------------------------------------------------------


def _pixels(data: bytes, path: Path, kind: str, options: PrepareOptions) -> Image.Image:
    """Upright, in sRGB: RGB, or RGBA where transparency stays."""
    from PIL import Image, ImageColor

    seen = decode_image(data, path)  # says in words what is wrong with it
    if not facts(data, path, seen).alpha:
        return seen.image
    with Image.open(io.BytesIO(data)) as image:
        turned = apply_orientation(image)[0].convert("RGBA")
    picture, alpha = to_rgb(turned.convert("RGB"))[0], turned.getchannel("A")
    if options.flatten or kind not in _HOLDS_ALPHA:
        under = Image.new("RGB", picture.size, ImageColor.getrgb(options.flatten or "white")[:3])
        return Image.composite(picture, under, alpha)
    picture.putalpha(alpha)
    return picture


def _has_metadata(image: Image.Image) -> bool:
    return bool(getattr(image, "text", None)) or not set(image.info) <= _TECHNICAL


def _mirrored(image: Image.Image, made: Recipe) -> Image.Image:
    from PIL import Image

    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if made.mirrored else image


# -- files ----------------------------------------------------------------------------------------------------


def _how_written(data: bytes, made: Recipe, options: PrepareOptions) -> dict[str, Any]:
    """Pillow's options for the new file: its quality, and what it holds beside pixels."""
    from PIL import Image

    more: dict[str, Any] = {}
    if not options.strip_metadata:
        with Image.open(io.BytesIO(data)) as before:
            more |= _metadata(before, made.kind)
    if made.kind == "JPEG":
        more |= {"quality": options.quality, "subsampling": 0}  # colours as sharp as the rest
    elif made.kind == "WEBP":
        more |= {"lossless": True} if made.lossless else {"quality": options.quality}
    return more


def _metadata(image: Image.Image, kind: str) -> dict[str, Any]:
    """What the new file can hold of the old one's metadata; it is upright already."""
    from PIL import PngImagePlugin

    kept: dict[str, Any] = {}
    try:
        exif = image.getexif() if image.info.get("exif") else Image.Exif()
        exif.pop(ORIENTATION, None)
        if exif and kind in ("JPEG", "PNG", "WEBP"):
            kept["exif"] = exif.tobytes()
    except Exception:
        log.debug("unreadable EXIF data", exc_info=True)
    texts = getattr(image, "text", None)
    if texts and kind == "PNG":
        kept["pnginfo"] = PngImagePlugin.PngInfo()
        for name, text in texts.items():
            kept["pnginfo"].add_text(name, text)
    return kept


def _saved(image: Image.Image, kind: str, path: Path, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.info = {}  # parts of it (profile, comment) would be written unasked
    try:
        image.save(stream, kind, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be written as {kind} ({error}). Choose another format.") from error
    return stream.getvalue()
