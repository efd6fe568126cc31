"""Drawing primitives of the renderer: palette, outlines, patterns and the toy figure.

Shapes are drawn on a canvas of CANVAS x CANVAS pixels (twice the final size) and then halved, which smooths edges.
Coordinates and radii are canvas pixels; images are uint8 arrays [height, width, 3].
"""

import math

import numpy as np
from PIL import Image, ImageDraw

PIXELS = 128
CANVAS = 2 * PIXELS

PALETTE = {
    "red": (220, 40, 40),
    "green": (40, 165, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 45),
    "orange": (245, 135, 25),
    "purple": (135, 50, 180),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
COLORS = list(PALETTE)
NOUNS = ["circle", "square", "triangle", "star", "heart", "ring", "cross"]
BODIES = NOUNS[:5]
KINDS = [*NOUNS, "toy"]
PATTERNS = ["plain", "striped", "vertical", "diagonal", "dotted", "half"]

_ROWS, _COLUMNS = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)


def canvas(rgb):
    """A canvas of one color."""
    return np.broadcast_to(np.array(rgb, np.uint8), (CANVAS, CANVAS, 3)).copy()


def halve(pixels):
    """Canvas size to final size, averaging 2x2 blocks."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce(2))


def _star():
    radii = (1.05, 0.44)
    return [(radii[i % 2] * math.sin(i * math.pi / 5), -radii[i % 2] * math.cos(i * math.pi / 5)) for i in range(10)]


def _heart():
    angles = [2 * math.pi * i / 48 for i in range(48)]
    return [
        (
            16 * math.sin(t) ** 3 / 16.5,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16.5,
        )
        for t in angles
    ]


def _cross(a=0.32):
    return [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
        (-a, -a),
    ]


OUTLINES = {
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -1), (0.95, 0.75), (-0.95, 0.75)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}


def disc(draw, x, y, radius, fill):
    """A filled circle."""
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def outline_mask(noun, x, y, radius, turn=0.0):
    """Mask of the shape: an "L" image, 255 inside. `turn` is in radians."""
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    draw = ImageDraw.Draw(mask)
    if noun in ("circle", "ring"):
        disc(draw, x, y, radius, 255)
        if noun == "ring":
            disc(draw, x, y, radius * 0.52, 0)
        return mask
    cos, sin = math.cos(turn), math.sin(turn)
    draw.polygon(
        [(x + radius * (u * cos - v * sin), y + radius * (u * sin + v * cos)) for u, v in OUTLINES[noun]],
        fill=255,
    )
    return mask


def pattern_fill(pattern, first, second, x, y, radius):
    """A canvas filled with the pattern, anchored at (x, y) and scaled with `radius`."""
    width = radius / 2.2
    across, down = _COLUMNS - x + 10 * radius, _ROWS - y + 10 * radius
    if pattern == "plain":
        is_second = np.zeros((CANVAS, CANVAS), bool)
    elif pattern == "striped":
        is_second = np.floor(down / width) % 2 == 1
    elif pattern == "vertical":
        is_second = np.floor(across / width) % 2 == 1
    elif pattern == "diagonal":
        is_second = np.floor((across + down) / (width * 1.3)) % 2 == 1
    elif pattern == "dotted":
        pitch = radius / 1.6
        u, v = across % pitch - pitch / 2, down % pitch - pitch / 2
        is_second = u * u + v * v < (pitch * 0.3) ** 2
    elif pattern == "half":
        is_second = y < _ROWS
    else:
        raise ValueError(f"unknown pattern {pattern!r}")
    return np.where(is_second[..., None], np.array(second, np.uint8), np.array(first, np.uint8))


def draw_shape(pixels, noun, pattern, first, second, x, y, radius, turn=0.0):
    """Draw one patterned shape onto an image."""
    image = Image.fromarray(pixels)
    fill = Image.fromarray(pattern_fill(pattern, first, second, x, y, radius))
    image.paste(fill, (0, 0), outline_mask(noun, x, y, radius, turn))
    return np.asarray(image)


def draw_toy(pixels, subject, x, y, radius):
    """Draw a toy onto an image: a patterned body with two eyes, optionally an antenna and feet."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    if subject.feet:
        for side in (-1, 1):
            foot = x + side * radius * 0.5
            draw.ellipse(
                [foot - radius * 0.27, y + radius * 0.72, foot + radius * 0.27, y + radius * 1.2],
                fill=subject.accent,
            )
    if subject.antenna:
        width = max(4, int(radius * 0.1))
        draw.line([(x, y - radius * 0.8), (x, y - radius * 1.3)], fill=subject.accent, width=width)
        disc(draw, x, y - radius * 1.45, radius * 0.2, subject.accent)
    pixels = draw_shape(np.asarray(image), subject.body, subject.pattern, subject.first, subject.second, x, y, radius)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for side in (-1, 1):
        eye = x + side * radius * 0.27
        disc(draw, eye, y - radius * 0.1, radius * 0.2 * subject.eye, (250, 250, 250))
        disc(draw, eye, y - radius * 0.1, radius * 0.1 * subject.eye, (15, 15, 15))
    return np.asarray(image)
