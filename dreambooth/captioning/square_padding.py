"""A picture as WD14 taggers want it: in the middle of a white square.

As in the inference code that is published with the models (huggingface.co/spaces/SmilingWolf/wd-tagger).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 8192  # pixels: a square around a longer picture would fill the memory; it is made smaller first


def on_white_square(picture: Image.Image) -> Image.Image:
    """RGB, as wide and high as the picture's longer side."""
    from PIL import Image

    if max(picture.size) > LONGEST:
        shrink = LONGEST / max(picture.size)
        size = [max(1, round(side * shrink)) for side in picture.size]
        # Roughly first: of one that is millions of pixels long the resampling alone would take gigabytes.
        picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
