"""Synthetic images for tests, and a comparison of colors."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw


def scene(size=(90, 60), at=(0.5, 0.5), seed=0) -> Image.Image:
    """Noise with a striped disc."""
    image = Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))
    image = image.point(lambda value: 110 + value // 16)
    radius, (x, y) = min(size) // 6, (int(size[0] * at[0]), int(size[1] * at[1]))
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill="red")
    ImageDraw.Draw(image).rectangle((x - radius, y - 1, x + radius, y + 1), fill="white")
    return image


def near(color, wanted, off=12) -> bool:
    return max(abs(a - b) for a, b in zip(color, wanted, strict=True)) <= off
