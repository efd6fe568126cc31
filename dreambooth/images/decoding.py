"""Decoding any picture file to plain upright sRGB.

A person's folder holds whatever phones, scanners, browsers and paint programs write. Everything here
ends in one of two ways: the picture as a person sees it, or an `Unusable` that names the file and the cause.
"""

from __future__ import annotations

import io
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.images.color import Finding, has_alpha, is_deep, to_rgb, upright
from dreambooth.images.damage import called_otherwise, require_whole
from dreambooth.images.file_reader import read_bytes
from dreambooth.images.issues import UnusableFile

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("dreambooth.dataset")

# What the bytes may be, whatever the file is called. A closed list, because some of Pillow's readers
# (EPS) start other programs. MPO is what many phones write into a .jpg.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "AVIF", "GIF", "TIFF")

# Pillow's own default limit against decompression bombs, 256 MiB of RGB. Hosts lift Pillow's, so ours is
# a constant.
MAX_PIXELS = (256 * 2**20) // 3

# A picture that is larger than most is decoded alone: several at once would need gigabytes.
_LARGE = 24 * 10**6  # pixels
_one_large = threading.Lock()

# What the files of each kind are called.
_CALLED = {
    "PNG": {".png"}, "JPEG": {".jpg", ".jpeg", ".jfif"}, "MPO": {".jpg", ".jpeg", ".jfif"}, "WEBP": {".webp"},
    "BMP": {".bmp"}, "AVIF": {".avif"}, "GIF": {".gif"}, "TIFF": {".tif", ".tiff"},
}  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """A picture, and what had to be done with the file to come to it."""

    image: Image.Image  # upright sRGB
    findings: tuple[Finding, ...]


def open_image(path: str | Path) -> Image.Image:
    """The picture as an upright RGB image. Raises UserError that names the file."""
    return decode(read_bytes(path), path)


def decode(data: bytes, path: str | Path) -> Image.Image:
    """The upright sRGB picture of :func:`decoded`."""
    return decoded(data, path).image


def decoded(data: bytes, path: str | Path) -> Decoded:
    """Decode a picture file's bytes completely, to upright sRGB.

    The EXIF orientation is applied, an embedded colour profile is converted to sRGB, transparency is laid on white,
    more than 8 bits are scaled (not clipped) to 8; of an animation the first frame counts. `path` is for messages.
    Raises Unusable for what is no picture, is cut off or damaged, or is larger than MAX_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    require_whole(data, path)
    stream = _Stream(data)
    try:
        with Image.open(stream, formats=formats) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise Image.DecompressionBombError
            if pixels <= _LARGE:
                return _loaded(image, stream, path)
            with _one_large:
                return _loaded(image, stream, path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = MAX_PIXELS // 10**6
        raise UnusableFile(
            path, "too-large", f"has more than {limit} million pixels. Make the picture smaller."
        ) from error
    except MemoryError as error:
        raise UnusableFile(path, "too-large", "there is not enough memory to decode it. Make it smaller.") from error
    except UnidentifiedImageError as error:
        raise UnusableFile(path, "unreadable", _unidentified(data, path, formats)) from error
    except Exception as error:
        # Pillow's decoders answer damaged files with nearly any exception type; all mean the same here.
        log.debug("%s can't be decoded", path, exc_info=True)
        if stream.ran_out or "truncated" in str(error).lower():
            raise UnusableFile(path, "truncated", f"is cut off ({error}). Replace it, or remove it.") from error
        if "MAX_TEXT" in str(error):  # Pillow's bounds against bombs
            raise UnusableFile(
                path, "too-large", "holds too much beside its pixels. Save it without metadata."
            ) from error
        raise UnusableFile(path, "unreadable", f"is damaged ({error}). Replace it, or remove it.") from error


def alpha_of(data: bytes, path: str | Path) -> Image.Image | None:
    """The upright picture's alpha channel as grey, white where it can be seen; None when it has none."""
    from PIL import Image

    decode(data, path)  # says in words what is wrong with it
    with Image.open(io.BytesIO(data)) as image:
        turned, _ = upright(image)
        return turned.convert("RGBA").getchannel("A") if has_alpha(turned) else None


class _Stream(io.BytesIO):
    """Bytes that may not be read past their end once the picture must be `complete`.

    Pillow notices a cut-off file by itself, unless ImageFile.LOAD_TRUNCATED_IMAGES is on, which other
    programs in our process may have done: then it fills the rest with grey. That switch belongs to them.
    """

    complete = ran_out = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.complete and not data and size != 0:
            self.ran_out = True
            raise OSError("the file ends before the picture does")
        return data


def _loaded(image: Image.Image, stream: _Stream, path: str | Path) -> Decoded:
    """Of a picture that was opened and whose size is allowed."""
    findings: list[Finding] = []
    suffix, kind = Path(path).suffix.lower(), image.format or ""
    if suffix and suffix not in _CALLED[kind]:
        findings.append(("mislabelled", f"holds {kind}, though it is called {suffix}."))
    if is_deep(image):
        findings.append(("deep", "has more than 8 bits per channel, scaled to 8."))
    if kind != "MPO" and getattr(image, "is_animated", False):  # an MPO's other frames are previews and depths
        findings.append(("animated", "is animated or has several pages: the first is used."))
    stream.complete = True
    image.load()
    turned, said = upright(image)
    rgb, done = to_rgb(turned)
    return Decoded(rgb, (*findings, *said, *done))


def _unidentified(data: bytes, path: str | Path, formats: list[str]) -> str:
    what = called_otherwise(data)
    if what:
        return f"is {what}, whatever its name says. Convert it to PNG or JPEG, or remove it."
    if Path(path).suffix.lower() == ".avif" and "AVIF" not in formats:
        return "the installed Pillow can't read AVIF. Convert it to PNG or JPEG, or update Pillow."
    return "is no picture that can be read (PNG, JPEG, WebP, BMP, AVIF, GIF, TIFF). Replace it, or remove it."
