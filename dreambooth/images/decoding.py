"""Decoding of image files to upright 8-bit sRGB.

A user's folder holds files of phones, scanners, browsers and paint programs. Each is either decoded as a viewer would
show it, or raises an ``UnusableFile`` that names the file and the cause.
"""

from __future__ import annotations

import io
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.images.color import Finding, apply_orientation, has_alpha, is_high_bit_depth, to_rgb
from dreambooth.images.damage import detect_other_format, require_complete
from dreambooth.images.file_kinds import FORMATS
from dreambooth.images.file_reader import read_bytes
from dreambooth.images.issues import UnusableFile

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("dreambooth.dataset")

# Pillow's default limit against decompression bombs, 256 MiB of RGB. A constant, because WebUIs lift Pillow's.
MAX_PIXELS = (256 * 2**20) // 3

# Larger images are decoded one at a time: several at once would need gigabytes.
_LARGE = 24 * 10**6  # pixels
_large_image_lock = threading.Lock()


@dataclass(frozen=True)
class DecodedImage:
    """An image, and the conversions that decoding it needed."""

    image: Image.Image  # upright sRGB
    findings: tuple[Finding, ...]


def open_image(path: str | Path) -> Image.Image:
    """The image of a file as upright sRGB. UserError that names the file."""
    return decode_to_rgb(read_bytes(path), path)


def decode_to_rgb(data: bytes, path: str | Path) -> Image.Image:
    """The upright sRGB image of :func:`decode_image`."""
    return decode_image(data, path).image


def decode_image(data: bytes, path: str | Path) -> DecodedImage:
    """Decode an image file's bytes completely, to upright sRGB.

    The EXIF orientation is applied, an embedded color profile is converted to sRGB, transparency is flattened on white,
    more than 8 bits are scaled (not clipped) to 8; of an animation the first frame is used. ``path`` is for messages.
    UnusableFile for a file that is not an image, is truncated or damaged, or is larger than MAX_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    if Path(path).suffix.lower() not in FORMATS["DIB"]:  # a bitmap without the header that would tell its format
        formats.remove("DIB")
    require_complete(data, path)
    stream = _Stream(data)
    try:
        with Image.open(stream, formats=formats) as image:
            n_pixels = image.width * image.height
            if n_pixels > MAX_PIXELS:
                raise Image.DecompressionBombError
            if n_pixels <= _LARGE:
                return _load(image, stream, path)
            with _large_image_lock:
                return _load(image, stream, path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = MAX_PIXELS // 10**6
        raise UnusableFile(path, "too-large", f"has more than {limit} million pixels. Resize the image.") from error
    except MemoryError as error:
        raise UnusableFile(path, "too-large", "there is not enough memory to decode it. Resize the image.") from error
    except UnidentifiedImageError as error:
        raise UnusableFile(path, "unreadable", _unidentified_message(data, path, formats)) from error
    except Exception as error:
        # Pillow's decoders raise nearly any exception type for damaged files; all mean the same here.
        log.debug("%s can't be decoded", path, exc_info=True)
        if stream.reached_end or "truncated" in str(error).lower():
            raise UnusableFile(path, "truncated", f"is truncated ({error}). Replace or remove it.") from error
        if "MAX_TEXT" in str(error):  # Pillow's limits against decompression bombs
            raise UnusableFile(path, "too-large", "has too much metadata. Save it without metadata.") from error
        raise UnusableFile(path, "unreadable", f"is damaged ({error}). Replace or remove it.") from error


def alpha_channel(data: bytes, path: str | Path) -> Image.Image | None:
    """The upright image's alpha channel as gray (white is opaque); None when it has none."""
    from PIL import Image

    decode_to_rgb(data, path)  # raises UnusableFile with the cause
    with Image.open(io.BytesIO(data)) as image:
        upright, _ = apply_orientation(image)
        return upright.convert("RGBA").getchannel("A") if has_alpha(upright) else None


class _Stream(io.BytesIO):
    """Bytes that may not be read past their end once ``must_be_complete``.

    Pillow notices a truncated file by itself, unless ImageFile.LOAD_TRUNCATED_IMAGES is on, which other extensions in
    the process may have set: then it fills the missing part with gray. That global switch is not ours to change.
    """

    must_be_complete = reached_end = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.must_be_complete and not data and size != 0:
            self.reached_end = True
            raise OSError("the file ends before the image does")
        return data


def _load(image: Image.Image, stream: _Stream, path: str | Path) -> DecodedImage:
    """Decode the pixels of an opened image of allowed size."""
    findings: list[Finding] = []
    extension, format_name = Path(path).suffix.lower(), image.format or ""
    if extension and extension not in FORMATS[format_name]:
        findings.append(("mislabelled", f"is a {format_name} file with the extension {extension}."))
    if is_high_bit_depth(image):
        findings.append(("deep", "has more than 8 bits per channel, scaled to 8."))
    if format_name != "MPO" and getattr(image, "is_animated", False):  # other frames of an MPO: previews, depth maps
        findings.append(("animated", "is animated or has several pages; only the first is used."))
    stream.must_be_complete = True
    image.load()
    upright, orientation_findings = apply_orientation(image)
    rgb, color_findings = to_rgb(upright)
    return DecodedImage(rgb, (*findings, *orientation_findings, *color_findings))


def _unidentified_message(data: bytes, path: str | Path, formats: list[str]) -> str:
    other_format = detect_other_format(data)
    if other_format:
        return f"is {other_format}, despite its name. Convert it to PNG or JPEG, or remove it."
    if Path(path).suffix.lower() == ".avif" and "AVIF" not in formats:
        return "the installed Pillow can't read AVIF. Convert it to PNG or JPEG, or update Pillow."
    return "is not a readable image (PNG, JPEG, WebP, BMP, AVIF, GIF, TIFF, PPM). Replace or remove it."
