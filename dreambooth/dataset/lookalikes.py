"""Pictures that look the same: a fingerprint of what can be seen, and a search for near ones.

The fingerprint is a perceptual hash of 64 bits: of the lowest frequencies of the grey picture, which are above the
median (as in C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1).
Saving, scaling and slight changes of light alter a few bits, another picture about half of them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from PIL import Image

NEAR = 6  # bits; from about 10 on, different pictures of one scene begin
_SIDE, _KEPT = 32, 8  # pixels that are transformed, frequencies that are kept
_FLAT = 2.0  # levels of grey: with less variation there is nothing to recognise
_ROWS = 2048  # of a block of comparisons


def look_of(image: Image.Image) -> int | None:
    """The fingerprint of an RGB picture; None where it shows next to nothing."""
    import numpy
    from PIL import Image

    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = small.convert("L")
    pixels = numpy.frombuffer(grey.tobytes(), dtype=numpy.uint8).reshape(_SIDE, _SIDE).astype(numpy.float32)
    if pixels.std() < _FLAT:
        return None
    waves = _waves()
    strengths = (waves @ pixels @ waves.T).reshape(-1)
    bits = strengths > numpy.median(strengths[1:])  # the first is the mean of the picture
    return int.from_bytes(numpy.packbits(bits).tobytes(), "big")


def near_pairs(looks: Sequence[int], beat: Callable[[], None] = lambda: None) -> list[tuple[int, int, int]]:
    """All pairs of different fingerprints of at most NEAR bits' distance: (place, later place, distance).

    Two that differ in at most NEAR bits are the same in one of NEAR + 1 parts at least, so only those are compared
    that share a part. ``looks`` holds each fingerprint once.
    """
    import numpy

    hashes = numpy.array(looks, dtype=numpy.uint64)
    found: dict[tuple[int, int], int] = {}
    edges = [64 * part // (NEAR + 1) for part in range(NEAR + 2)]
    for low, high in itertools.pairwise(edges):
        part = (hashes >> numpy.uint64(low)) & numpy.uint64((1 << (high - low)) - 1)
        order = numpy.argsort(part, kind="stable")
        starts = numpy.flatnonzero(numpy.diff(part[order], prepend=part[order[:1]] ^ numpy.uint64(1)))
        for group in numpy.split(order, starts[1:]):
            if len(group) > 1:
                beat()
                found.update(_pairs_in(hashes, group))
    return sorted((one, other, distance) for (one, other), distance in found.items())


def _pairs_in(hashes: numpy.ndarray, group: numpy.ndarray) -> dict[tuple[int, int], int]:
    import numpy

    found = {}
    for start in range(0, len(group), _ROWS):
        rows = group[start : start + _ROWS]
        distances = _bits(hashes[rows][:, None] ^ hashes[group[start:]][None, :])
        for row, column in numpy.argwhere(distances <= NEAR):
            one, other = sorted((int(rows[row]), int(group[start + column])))
            if one != other:
                found[one, other] = int(distances[row, column])
    return found


def _bits(words: numpy.ndarray) -> numpy.ndarray:
    """How many bits are set in each; numpy has a function for it from 2.0 on."""
    import numpy

    if hasattr(numpy, "bitwise_count"):
        return numpy.bitwise_count(words)
    one, two, four = (numpy.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    words = words - ((words >> numpy.uint64(1)) & one)
    words = (words & two) + ((words >> numpy.uint64(2)) & two)
    words = (words + (words >> numpy.uint64(4))) & four
    return (words * numpy.uint64(0x0101010101010101)) >> numpy.uint64(56)


@functools.lru_cache(maxsize=1)
def _waves() -> numpy.ndarray:
    """The first cosines of the discrete cosine transform (type II), (_KEPT, _SIDE)."""
    import numpy

    rows = [
        [math.cos(math.pi * (2 * place + 1) * frequency / (2 * _SIDE)) for place in range(_SIDE)]
        for frequency in range(_KEPT)
    ]
    return numpy.array(rows, dtype=numpy.float32)
