"""Near duplicates: fingerprints of images, and the search for pairs with near fingerprints.

The fingerprint is a perceptual hash of 64 bits: which of the lowest DCT frequencies of the grayscale image are above
their median (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1).
Compression, scaling and slight changes of brightness change a few bits; another image changes about half of them. The
hash ignores color, so mean colors of a 4 x 4 grid are compared too: one toy on red and on green is two images.
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

MAX_BIT_DISTANCE = 6  # from about 10 on, different images of one scene match
# Levels of Cb or Cr in one cell. Of 70 photos and drawings that were saved at quality 15, brightened, saturated or
# desaturated by a fifth, or cropped by a twentieth on each side, none differed by more than 21.
MAX_COLOR_DISTANCE = 24
_GRID = 4  # cells per side
_MAX_COMPARED = 256  # earlier images with near hashes: enough, where thousands are alike
_HASH_SIZE, _N_FREQUENCIES = 32, 8  # pixels per side before the DCT, frequencies per side after it
_MIN_CONTRAST = 2.0  # standard deviation in gray levels; a plainer image has no fingerprint


class Fingerprint(NamedTuple):
    """A perceptual hash and mean colors."""

    bits: int  # the 64-bit hash of the grayscale image
    colors: str  # Cb of each cell, then Cr, in hex


def fingerprint_of(image: Image.Image) -> Fingerprint | None:
    """The fingerprint of an RGB image; None for a nearly plain one."""
    import numpy
    from PIL import Image

    small = image.resize((_HASH_SIZE, _HASH_SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    gray = small.convert("L")
    pixels = numpy.frombuffer(gray.tobytes(), dtype=numpy.uint8).reshape(_HASH_SIZE, _HASH_SIZE).astype(numpy.float32)
    if pixels.std() < _MIN_CONTRAST:
        return None
    dct = _dct_matrix()
    amplitudes = (dct @ pixels @ dct.T).reshape(-1)
    bits = amplitudes > numpy.median(amplitudes[1:])  # the first is the image's mean
    cells = small.convert("YCbCr").resize((_GRID, _GRID), Image.Resampling.BOX)
    colors = b"".join(cells.getchannel(channel).tobytes() for channel in ("Cb", "Cr"))
    return Fingerprint(int.from_bytes(numpy.packbits(bits).tobytes(), "big"), colors.hex())


def find_near_duplicates(
    fingerprints: Sequence[Fingerprint], heartbeat: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, int, int]]:
    """Each near duplicate of an earlier image: (index, index of the first one it duplicates, distance in bits)."""
    import numpy

    indices: dict[int, list[int]] = defaultdict(list)
    for index, fingerprint in enumerate(fingerprints):
        indices[fingerprint.bits].append(index)
    hashes = list(indices)
    near = {bits: {bits: 0} for bits in hashes}
    for one, other, distance in near_pairs(hashes, heartbeat):
        near[hashes[one]][hashes[other]] = near[hashes[other]][hashes[one]] = distance
    colors = numpy.frombuffer(bytes.fromhex("".join(each.colors for each in fingerprints)), dtype=numpy.uint8)
    colors = colors.reshape(len(fingerprints), 2 * _GRID**2).astype(numpy.int16)
    for index, fingerprint in enumerate(fingerprints):
        if len(near[fingerprint.bits]) == 1 and indices[fingerprint.bits][0] == index:
            continue  # most images: no near hash
        candidates = heapq.merge(*(indices[bits] for bits in near[fingerprint.bits]))
        earlier = itertools.takewhile(lambda candidate, index=index: candidate < index, candidates)
        earlier = list(itertools.islice(earlier, _MAX_COMPARED))
        color_distances = abs(colors[earlier] - colors[index]).max(axis=1)
        first = next((earlier[i] for i in numpy.flatnonzero(color_distances <= MAX_COLOR_DISTANCE)), None)
        if first is not None:
            yield index, first, near[fingerprint.bits][fingerprints[first].bits]


def near_pairs(hashes: Sequence[int], heartbeat: Callable[[], None] = lambda: None) -> list[tuple[int, int, int]]:
    """All pairs of hashes at most MAX_BIT_DISTANCE apart: (index, later index, distance). ``hashes`` are unique.

    Two hashes that differ in at most MAX_BIT_DISTANCE bits are equal in at least one of MAX_BIT_DISTANCE + 1 bit
    ranges, so only those equal in a range are compared.
    """
    import numpy

    array = numpy.array(hashes, dtype=numpy.uint64)
    found: dict[tuple[int, int], int] = {}
    edges = [64 * part // (MAX_BIT_DISTANCE + 1) for part in range(MAX_BIT_DISTANCE + 2)]
    for low, high in itertools.pairwise(edges):
        bit_range = (array >> numpy.uint64(low)) & numpy.uint64((1 << (high - low)) - 1)
        for one, other, distance in _near_pairs_within(array, bit_range, heartbeat):
            found[min(one, other), max(one, other)] = distance
    return sorted((one, other, distance) for (one, other), distance in found.items())


def _near_pairs_within(
    hashes: numpy.ndarray, bit_range: numpy.ndarray, heartbeat: Callable[[], None]
) -> Iterator[tuple[int, int, int]]:
    """Near pairs among the hashes with an equal ``bit_range``.

    Sorted by it, equal ones are adjacent: all hashes are compared at once with their next neighbor, then with the one
    after it, until the largest group is done.
    """
    import numpy

    order = numpy.argsort(bit_range, kind="stable")
    hashes, bit_range = hashes[order], bit_range[order]
    group_ends = numpy.searchsorted(bit_range, bit_range, side="right")
    current = numpy.arange(len(bit_range))
    for offset in range(1, len(bit_range)):
        current = current[current + offset < group_ends[current]]
        if not len(current):
            return
        heartbeat()
        distances = _bit_count(hashes[current] ^ hashes[current + offset])
        for i in numpy.flatnonzero(distances <= MAX_BIT_DISTANCE):
            yield int(order[current[i]]), int(order[current[i] + offset]), int(distances[i])


def _bit_count(words: numpy.ndarray) -> numpy.ndarray:
    """The number of set bits in each uint64; numpy has a function for it since 2.0."""
    import numpy

    if hasattr(numpy, "bitwise_count"):
        return numpy.bitwise_count(words)
    one, two, four = (numpy.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    words = words - ((words >> numpy.uint64(1)) & one)
    words = (words & two) + ((words >> numpy.uint64(2)) & two)
    words = (words + (words >> numpy.uint64(4))) & four
    return (words * numpy.uint64(0x0101010101010101)) >> numpy.uint64(56)


@functools.lru_cache(maxsize=1)
def _dct_matrix() -> numpy.ndarray:
    """The first rows of the discrete cosine transform (type II), (_N_FREQUENCIES, _HASH_SIZE)."""
    import numpy

    rows = [
        [math.cos(math.pi * (2 * position + 1) * frequency / (2 * _HASH_SIZE)) for position in range(_HASH_SIZE)]
        for frequency in range(_N_FREQUENCIES)
    ]
    return numpy.array(rows, dtype=numpy.float32)
