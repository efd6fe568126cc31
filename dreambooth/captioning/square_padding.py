"""The input of WD14 taggers: an image centered on a white square.

As in the inference code published with the models (huggingface.co/spaces/SmilingWolf/wd-tagger).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 8192  # pixels; longer images are scaled down first, since a square around them would fill the memory


def on_white_square(image: Image.Image) -> Image.Image:
    """RGB; the side is the longer side of the image."""
    from PIL import Image

    if max(image.size) > LONGEST:
        shrink = LONGEST / max(image.size)
        size = [max(1, round(side * shrink)) for side in image.size]
        # reducing_gap: resampling an image of millions of pixels in length would take gigabytes.
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
