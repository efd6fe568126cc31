"""Small previews of an image before and after its preparation."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreambooth.images.decoding import decode_to_rgb
from dreambooth.images.file_reader import read_bytes
from dreambooth.preparation.changes import ImageChange
from dreambooth.preparation.transform import transform_image
from dreambooth.settings.preparation import PrepareOptions

if TYPE_CHECKING:
    from PIL import Image

_MAX_SIDE = 160  # pixels
_FRAME_COLOR = "#ff3b30"


@dataclass(frozen=True)
class Preview:
    """JPEG bytes. ``before`` has a frame around the crop."""

    before: bytes
    after: bytes


def make_preview(change: ImageChange, options: PrepareOptions) -> Preview:
    """UserError when the image can't be read anymore, or can't be saved with these options."""
    from PIL import ImageDraw

    data = read_bytes(change.source)
    before = decode_to_rgb(data, change.source)
    after = decode_to_rgb(transform_image(data, change.source, change.transform, options), change.destination)
    crop, scale = change.transform.crop, min(1.0, _MAX_SIDE / max(before.size))
    small = before.resize([max(1, round(side * scale)) for side in before.size])
    x_scale, y_scale = small.width / crop.resized_w, small.height / crop.resized_h
    left, top = crop.left * x_scale, crop.top * y_scale
    right, bottom = (crop.left + crop.width) * x_scale, (crop.top + crop.height) * y_scale
    if crop.kept_fraction < 1:
        ImageDraw.Draw(small).rectangle([left, top, right - 1, bottom - 1], outline=_FRAME_COLOR, width=2)
    after.thumbnail((_MAX_SIDE, _MAX_SIDE))
    return Preview(_jpeg(small), _jpeg(after))


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()
