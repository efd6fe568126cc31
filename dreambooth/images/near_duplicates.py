"""Pictures that look the same: a fingerprint of what can be seen, and a search for near ones.

The fingerprint is a perceptual hash of 64 bits: of the lowest frequencies of the grey picture, which are above the
median (as in C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1).
Saving, scaling and slight changes of light alter a few bits, another picture about half of them. It sees no colour, so
that of a few parts of the picture stands beside it: one toy before red and before green is two pictures.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy
    from PIL import Image

NEAR = 6  # bits; from about 10 on, different pictures of one scene begin
# Levels of Cb or Cr in one part. Of 70 photos and drawings that were saved at quality 15, brightened, made a fifth more
# or less colourful, or lost a twentieth at each side, none differed by more than 21.
NEAR_COLOUR = 24
_PARTS = 4  # to a side
_COMPARED = 256  # earlier pictures of near fingerprints: enough, where thousands show the same
_SIDE, _KEPT = 32, 8  # pixels that are transformed, frequencies that are kept
_FLAT = 2.0  # levels of grey: with less variation there is nothing to recognise


class Look(NamedTuple):
    """What a picture looks like."""

    bits: int  # of the grey picture
    colours: str  # Cb and Cr of each part, in hex


def fingerprint_of(image: Image.Image) -> Look | None:
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
    parts = small.convert("YCbCr").resize((_PARTS, _PARTS), Image.Resampling.BOX)
    colours = b"".join(parts.getchannel(channel).tobytes() for channel in ("Cb", "Cr"))
    return Look(int.from_bytes(numpy.packbits(bits).tobytes(), "big"), colours.hex())


def alike(looks: Sequence[Look], beat: Callable[[], None] = lambda: None) -> Iterator[tuple[int, int, int]]:
    """Each that looks like an earlier one: (place, place of the first that it looks like, distance in bits)."""
    import numpy

    places: dict[int, list[int]] = defaultdict(list)
    for place, look in enumerate(looks):
        places[look.bits].append(place)
    words = list(places)
    near = {bits: {bits: 0} for bits in words}
    for one, other, distance in near_pairs(words, beat):
        near[words[one]][words[other]] = near[words[other]][words[one]] = distance
    colours = numpy.frombuffer(bytes.fromhex("".join(look.colours for look in looks)), dtype=numpy.uint8)
    colours = colours.reshape(len(looks), 2 * _PARTS**2).astype(numpy.int16)
    for place, look in enumerate(looks):
        if len(near[look.bits]) == 1 and places[look.bits][0] == place:
            continue  # most of them: like none
        there = heapq.merge(*(places[bits] for bits in near[look.bits]))
        earlier = list(itertools.islice(itertools.takewhile(lambda one, own=place: one < own, there), _COMPARED))
        differ = abs(colours[earlier] - colours[place]).max(axis=1)
        first = next((earlier[at] for at in numpy.flatnonzero(differ <= NEAR_COLOUR)), None)
        if first is not None:
            yield place, first, near[look.bits][looks[first].bits]


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
        for one, other, distance in _pairs_in(hashes, part, beat):
            found[min(one, other), max(one, other)] = distance
    return sorted((one, other, distance) for (one, other), distance in found.items())


def _pairs_in(hashes: numpy.ndarray, part: numpy.ndarray, beat: Callable[[], None]) -> Iterator[tuple[int, int, int]]:
    """Near pairs among those whose ``part`` is the same. Sorted by it, each stands before the others of its group: all
    are compared at once with their next neighbours, then with those behind them, until the largest group is through.
    """
    import numpy

    order = numpy.argsort(part, kind="stable")
    hashes, part = hashes[order], part[order]
    ends = numpy.searchsorted(part, part, side="right")
    here = numpy.arange(len(part))
    for apart in range(1, len(part)):
        here = here[here + apart < ends[here]]
        if not len(here):
            return
        beat()
        distances = _bits(hashes[here] ^ hashes[here + apart])
        for at in numpy.flatnonzero(distances <= NEAR):
            yield int(order[here[at]]), int(order[here[at] + apart]), int(distances[at])


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
