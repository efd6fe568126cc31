"""Options of image preparation, declared like all settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreambooth.settings.declare import declared, setting
from dreambooth.settings.run import SETTINGS

NO_CROP, CENTER, SMART = CROPS = ("none", "center", "smart")
NO_MIRROR, ADD_MIRRORED, MIRROR_ALL = MIRRORS = ("no", "add copies", "instead")
AS_IT_IS = "as it is"
WEBP_LOSSLESS = "WebP lossless"
FORMATS = (AS_IT_IS, "PNG", "JPEG", "WebP", WEBP_LOSSLESS)

LONGEST_SIDE = 8192  # pixels: a square of this side is still small enough to be read again

_TO_BUCKETS = "crop != 'none' and not fixed_size"


def _as_in_training(key: str, help: str = "") -> Any:
    """The run's bucket setting of the same name, so that both give the same buckets."""
    own = SETTINGS[key]
    return setting(own.default, "Size", own.label, help or own.help, low=own.low, high=own.high, step=own.step,
                   applies=_TO_BUCKETS)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How the images of a folder are prepared."""

    # fmt: off
    out: str = setting("", "Destination", "Destination folder",
        "A new or empty folder. Empty creates one next to the image folder, with -prepared appended to its name.",
        applies="not in_place", path=True)
    in_place: bool = setting(False, "Destination", "In place",
        "Replace the original files. The originals are kept in a hidden subfolder (.originals-DATE), and undo restores "
        "them.")
    rename: str = setting("", "Destination", "File names",
        "Pattern such as sks-{n:03}, with {name} (old name), {n} or {n:03} (number) and {folder}; empty keeps the "
        "names. Captions and masks are renamed with their images.")

    crop: str = setting(NO_CROP, "Size", "Crop",
        "Crop to the bucket that training would choose. center removes equal parts of both sides; smart keeps "
        "the most salient part.", choices=CROPS, aliases={"centre": CENTER})
    resolution: int = _as_in_training("resolution")
    bucket_step: int = _as_in_training("bucket_step")
    bucket_min_side: int = _as_in_training("bucket_min_side",
        "Shortest side of a bucket in pixels. 0 allows what an aspect ratio of 2:1 gives.")
    bucket_max_side: int = _as_in_training("bucket_max_side",
        "Longest side of a bucket in pixels. 0 allows what an aspect ratio of 2:1 gives.")
    fixed_size: str = setting("", "Size", "Crop to one size",
        "Width x height, such as 512x768, for all images. Empty uses buckets.", applies="crop != 'none'")
    long_side: int = setting(0, "Size", "Long side",
        "Resize the longer side to this many pixels. 0 keeps the size.", low=0, high=LONGEST_SIDE,
        applies="crop == 'none'")
    enlarge: bool = setting(False, "Size", "Enlarge small images",
        "Enlarge images that are too small. Off keeps their pixels and only crops them to the aspect ratio.",
        applies="crop != 'none' or long_side")
    mirror: str = setting(NO_MIRROR, "Size", "Mirror",
        "add copies: also write mirrored images (NAME-mirrored, with the same captions); instead: write only the "
        "mirrored ones.", choices=MIRRORS)

    format: str = setting(AS_IT_IS, "File", "Format",
        "File format of the results; unchanged images are copied byte for byte. Formats that can't be written (GIF, "
        "TIFF, AVIF) become PNG.", choices=FORMATS)
    quality: int = setting(95, "File", "Quality",
        "Quality of JPEG and lossy WebP files. Larger is sharper and gives larger files.", low=1, high=100, step=1,
        applies="format != 'PNG' and format != 'WebP lossless'")
    flatten: str = setting("", "File", "Background color",
        "Color that replaces transparency, such as white or #808080. Empty keeps transparency if the format supports "
        "it; training and JPEG use white.")
    strip_metadata: bool = setting(False, "File", "Remove metadata",
        "Remove EXIF (camera, GPS position), comments, and the prompts that WebUIs write into PNG files. Off keeps "
        "EXIF and PNG texts where the format supports them.")
    # fmt: on


PREPARE_OPTIONS = declared(PrepareOptions)
