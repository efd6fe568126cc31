"""What can be chosen when pictures are prepared, declared once as all settings are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreambooth.settings.declare import declared, setting
from dreambooth.settings.run import SETTINGS

NO_CROP, CENTRE, SMART = CROPS = ("none", "centre", "smart")
NO_MIRROR, ADD_MIRRORED, MIRROR_ALL = MIRRORS = ("no", "add copies", "instead")
AS_IT_IS = "as it is"
WEBP_LOSSLESS = "WebP lossless"
FORMATS = (AS_IT_IS, "PNG", "JPEG", "WebP", WEBP_LOSSLESS)

LONGEST_SIDE = 8192  # pixels: its square is no more than what is read again

_TO_BUCKETS = "crop != 'none' and not fixed_size"


def _as_in_training(key: str) -> Any:
    """The bucket's setting of the same name, so that both mean the same bucket."""
    own = SETTINGS[key]
    return setting(own.default, "Size", own.label, own.help, low=own.low, high=own.high, step=own.step,
                   applies=_TO_BUCKETS)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """What becomes of the pictures of a folder."""

    # fmt: off
    out: str = setting("", "Destination", "Destination folder",
        "A new or an empty one; empty: beside the pictures' folder, with -prepared after its name.",
        applies="not in_place")
    in_place: bool = setting(False, "Destination", "In place",
        "Prepared pictures take the places of the originals. These are kept in a hidden folder there "
        "(.originals-DATE), and undo brings them back.")
    rename: str = setting("", "Destination", "Names",
        "{name}: as it was; {n}: its number in its folder, {n:03} with zeros; {folder}: its folder's name. Such as "
        "sks-{n:03}; empty: as they were. Captions and masks are renamed with their pictures.")

    crop: str = setting(NO_CROP, "Size", "Crop",
        "To the bucket that training would choose; what is cut off is taken evenly from both sides (centre), or where "
        "least stands out (smart).", choices=CROPS)
    resolution: int = _as_in_training("resolution")
    bucket_step: int = _as_in_training("bucket_step")
    bucket_min_side: int = _as_in_training("bucket_min_side")
    bucket_max_side: int = _as_in_training("bucket_max_side")
    fixed_size: str = setting("", "Size", "Crop to one size",
        "Width x height, such as 512x768, for all pictures instead of buckets.", applies="crop != 'none'")
    long_side: int = setting(0, "Size", "Long side", "Resize to this many pixels; 0: as it is.", low=0,
        high=LONGEST_SIDE, applies="crop == 'none'")
    enlarge: bool = setting(False, "Size", "Enlarge small pictures",
        "Off: a picture that is too small keeps its pixels, and is at most cut to the bucket's shape.",
        applies="crop != 'none' or long_side")
    mirror: str = setting(NO_MIRROR, "Size", "Mirror",
        "Left and right, as new pictures beside the others (NAME-mirrored, with the same captions) or instead of them.",
        choices=MIRRORS)

    format: str = setting(AS_IT_IS, "File", "Format",
        "What can't be written as it is (GIF, TIFF, AVIF) becomes PNG. A picture with nothing to change is copied "
        "byte for byte.", choices=FORMATS)
    quality: int = setting(95, "File", "Quality", "Of JPEG and WebP that are written anew.", low=1, high=100, step=1,
        applies="format != 'PNG' and format != 'WebP lossless'")
    flatten: str = setting("", "File", "Colour under transparency",
        "Such as white or #808080; empty: what is transparent stays so, where the format can hold it (training lays "
        "it on white, and so does JPEG).")
    strip_metadata: bool = setting(False, "File", "Remove metadata",
        "EXIF with camera and place (GPS), comments, and the prompts that WebUIs write into PNG files. Off: EXIF and "
        "PNG texts are kept where the format has a place for them.")
    # fmt: on


PREPARING = declared(Preparing)
