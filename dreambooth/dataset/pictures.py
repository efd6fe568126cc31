"""Picture files: finding them, and decoding any of them to plain upright RGB.

A person's folder holds whatever phones, scanners, browsers and paint programs write. Everything here
ends in one of two ways: the picture as a person sees it, or a `UserError` that names the file.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("dreambooth.dataset")

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".avif"})

# Pictures too, of kinds that are left out of a run.
OTHER_SUFFIXES = frozenset({".heic", ".heif", ".gif", ".tif", ".tiff", ".jxl", ".psd", ".dng", ".cr2", ".nef", ".arw"})

# How a mask is called beside its picture: as OneTrainer does, and as most people do.
MASK_ENDINGS = ("-masklabel", "_mask")

# What the bytes may be, whatever the file is called. A closed list, because some of Pillow's readers
# (EPS) start other programs. MPO is what many phones write into a .jpg.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "AVIF", "GIF", "TIFF")

# Folders that NAS boxes and archives fill with thumbnails of the real pictures.
_THUMBNAIL_FOLDERS = frozenset({"@eadir", "__macosx"})

# Pillow's own default limit against decompression bombs, 256 MiB of RGB. Hosts lift Pillow's, so ours is
# a constant.
MAX_PIXELS = (256 * 2**20) // 3


@dataclass(frozen=True)
class Examined:
    """What one complete reading of a picture file tells."""

    size: tuple[int, int]  # width, height in pixels, upright (after the EXIF orientation)
    content: str  # sha256 of the file's bytes, hex


def find_pictures(folder: str | Path, suffixes: Container[str] = SUFFIXES) -> list[Path]:
    """All picture files in `folder` and the folders below it, in natural order (2.png before 10.png).

    Hidden files and thumbnail folders are left out; links are followed, each real folder once, so that
    links in a circle end. AVIF is always listed: where Pillow can't read it, reading says so, instead
    of the picture silently missing. Raises UserError for a folder that isn't there or can't be listed.
    """
    folder = Path(folder)
    if os.path.isfile(folder):  # unlike Path's, it takes any name
        raise UserError(f"{folder}: is a file. Give the folder that holds the pictures.")
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder. Correct the path, or make the folder.")
    found: list[Path] = []
    visited: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_cannot_list):
        real = os.path.realpath(here)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found += [
            Path(here, name) for name in names if not _is_hidden(name) and os.path.splitext(name)[1].lower() in suffixes
        ]
    return sorted(found, key=lambda path: natural_order(path.relative_to(folder)))


def masks_of(pictures: Sequence[Path]) -> dict[Path, Path]:
    """Those that have a mask beside them (NAME-masklabel or NAME_mask, in any format), each with its mask."""
    known = {path.with_suffix(""): path for path in reversed(pictures)}
    masks = {}
    for path in pictures:
        for ending in MASK_ENDINGS:
            picture = known.get(path.with_name(path.stem.removesuffix(ending)))
            if path.stem.endswith(ending) and picture is not None:
                masks[picture] = path
    return masks


def natural_order(path: Path) -> tuple:
    """Sort key: numbers by value, letters without case; the exact text decides between equals."""
    parts = [
        [int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", part)]
        for part in path.parts
    ]
    return parts, str(path)


def examine(path: str | Path) -> Examined:
    """Read the file once, hash it and decode it completely. Raises UserError that names the file."""
    data = read_bytes(path)
    return Examined(size=decode(data, path).size, content=hashlib.sha256(data).hexdigest())


def open_picture(path: str | Path) -> Image.Image:
    """The picture as an upright RGB image. Raises UserError that names the file."""
    return decode(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes. Raises UserError that names the file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}).") from error
    if not data:
        raise UserError(f"{path}: is empty (0 bytes). Replace it, or remove it from the folder.")
    return data


def decode(data: bytes, path: str | Path) -> Image.Image:
    """Decode a picture file's bytes completely, to upright RGB.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled (not clipped)
    to 8 bits; of an animation the first frame counts. `path` is for messages. Raises UserError for what
    is no picture, is cut off or damaged, or is larger than MAX_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    stream = _Stream(data)
    try:
        with Image.open(stream, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            stream.complete = True
            image.load()
            return _to_rgb(_upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = MAX_PIXELS // 10**6
        raise UserError(f"{path}: has more than {limit} million pixels. Make the picture smaller.") from error
    except UnidentifiedImageError as error:
        raise UserError(_unidentified(path, formats)) from error
    except Exception as error:
        # Pillow's decoders answer damaged files with nearly any exception type; all mean the same here.
        log.debug("%s can't be decoded", path, exc_info=True)
        raise UserError(f"{path}: is damaged or cut off ({error}). Replace it, or remove it.") from error


def alpha_of(data: bytes, path: str | Path) -> Image.Image | None:
    """The upright picture's alpha channel as grey, white where it can be seen; None when it has none."""
    from PIL import Image

    decode(data, path)  # says in words what is wrong with it
    with Image.open(io.BytesIO(data)) as image:
        upright = _upright(image)
        return upright.convert("RGBA").getchannel("A") if _has_alpha(upright) else None


class _Stream(io.BytesIO):
    """Bytes that may not be read past their end once the picture must be `complete`.

    Pillow notices a cut-off file by itself, unless ImageFile.LOAD_TRUNCATED_IMAGES is on, which other
    programs in our process may have done: then it fills the rest with grey. That switch belongs to them.
    """

    complete = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.complete and not data and size != 0:
            raise OSError("the file ends before the picture does")
        return data


def _upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as the camera noted in the EXIF orientation tag (0x0112)."""
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
        orientation = image.getexif().get(0x0112)
    except Exception:  # the note is damaged, the picture is not: every viewer shows it unturned
        log.debug("unreadable EXIF data", exc_info=True)
        orientation = None
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and would leave nearly everything white.
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if _has_alpha(image):
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _unidentified(path: str | Path, formats: list[str]) -> str:
    if Path(path).suffix.lower() == ".avif" and "AVIF" not in formats:
        return f"{path}: the installed Pillow can't read AVIF. Convert it to PNG or JPEG, or update Pillow."
    return f"{path}: is no picture that can be read (PNG, JPEG, WebP, BMP, AVIF). Replace it, or remove it."


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _THUMBNAIL_FOLDERS


def _cannot_list(error: OSError) -> None:
    raise UserError(f"{error.filename}: this folder can't be read ({error.strerror}).") from error
