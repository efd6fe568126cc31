"""A prepared picture before and after, small enough to be shown among others."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreambooth.images.decoding import decode_to_rgb
from dreambooth.images.file_reader import read_bytes
from dreambooth.preparation.changes import Change
from dreambooth.preparation.transform import prepared
from dreambooth.settings.preparation import PrepareOptions

if TYPE_CHECKING:
    from PIL import Image

_SIDE = 160  # pixels
_FRAME = "#ff3b30"


@dataclass(frozen=True)
class Preview:
    """JPEG files' bytes. ``before`` has a frame around what stays."""

    before: bytes
    after: bytes


def preview(change: Change, options: PrepareOptions) -> Preview:
    """UserError when the picture can't be read any more, or not be written as chosen."""
    from PIL import ImageDraw

    data = read_bytes(change.source)
    before = decode_to_rgb(data, change.source)
    after = decode_to_rgb(prepared(data, change.source, change.recipe, options), change.destination)
    crop, scale = change.recipe.crop, min(1.0, _SIDE / max(before.size))
    small = before.resize([max(1, round(side * scale)) for side in before.size])
    across, down = small.width / crop.resized_w, small.height / crop.resized_h
    box = [crop.left * across, crop.top * down, (crop.left + crop.width) * across, (crop.top + crop.height) * down]
    if crop.kept_fraction < 1:
        ImageDraw.Draw(small).rectangle([box[0], box[1], box[2] - 1, box[3] - 1], outline=_FRAME, width=2)
    after.thumbnail((_SIDE, _SIDE))
    return Preview(_jpeg(small), _jpeg(after))


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()
