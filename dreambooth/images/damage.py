"""What a file's own structure tells of damage, where decoders look away or don't say what is wrong."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from dreambooth.images.issues import UnusableFile

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GIF = (b"GIF87a", b"GIF89a")
_TIFF = (b"II*\0", b"MM\0*")
# What else is called .jpg or .png: where in the file, how it begins there, what people call it.
_OTHERS = (
    (4, b"ftyphei", "a HEIC picture"), (4, b"ftyphev", "a HEIC picture"), (4, b"ftypmif1", "a HEIC picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"), (4, b"JXL ", "a JPEG XL picture"), (4, b"jP  ", "a JPEG 2000 picture"),
    (0, b"8BPS", "a Photoshop file"), (0, b"%PDF", "a PDF"), (0, b"%!PS", "a PostScript drawing"),
    (4, b"ftyp", "a video"), (0, b"\x1aE\xdf\xa3", "a video"), (0, b"PK\3\4", "a ZIP archive"),
    (0, b"version https://git-lfs", "a placeholder of Git LFS, whose file was not fetched"),
)  # fmt: skip
_MARKUP = ((b"<svg", "an SVG drawing"), (b"<html", "a web page"), (b"<!doctype html", "a web page"))
_SMALLEST = 32  # bytes; no picture of any kind is shorter


def require_whole(data: bytes, path: str | Path) -> None:
    """Unusable for a picture that ends too early or whose checksums don't match, as far as its structure says."""
    wrong = _wrong_checksum(data) if data.startswith(_PNG) else ""
    if is_cut_off(data):
        raise UnusableFile(path, "truncated", "is cut off: the file ends before the picture does. Replace it.")
    if wrong:
        raise UnusableFile(path, "unreadable", f"is damaged (wrong checksum in its {wrong} part). Replace it.")


def called_otherwise(data: bytes) -> str:
    """What a file is that is no picture of ours, as people call it; "" where that can't be told."""
    for place, start, what in _OTHERS:
        if data.startswith(start, place):
            return what
    text = data[:1000].lower()
    return next((what for mark, what in _MARKUP if mark in text), "")


def is_cut_off(data: bytes) -> bool:
    """Whether the structure of the file says that there was more of it."""
    if data.startswith(_PNG):
        return not any(kind == b"IEND" for kind, _, _ in _png_chunks(data))
    if data.startswith(_TIFF):  # where the first directory is
        order = "little" if data[:2] == b"II" else "big"
        return int.from_bytes(data[4:8], order) + 2 > len(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    if data.startswith(_GIF) and len(data) > _SMALLEST:
        has_palette, colours = data[10] & 0x80, 2 << (data[10] & 7)
        return bool(has_palette) and len(data) < 13 + 3 * colours
    return len(data) < _SMALLEST and data.startswith((_JPEG, *_GIF, b"BM"))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the body of each chunk whose kind can still be read, IEND last."""
    place = len(_PNG)
    while place + 8 <= len(data):
        kind, start = data[place + 4 : place + 8], place + 8
        end = start + int.from_bytes(data[place : place + 4], "big")
        if kind != b"IEND" and end + 4 > len(data):
            return
        yield kind, start, end
        if kind == b"IEND":
            return
        place = end + 4


def _wrong_checksum(data: bytes) -> str:
    """The kind of the first PNG chunk with another CRC than it says; "" when all are right."""
    view = memoryview(data)
    for kind, start, end in _png_chunks(data):
        said = data[end : end + 4]
        if len(said) == 4 and zlib.crc32(view[start - 4 : end]) != int.from_bytes(said, "big"):
            return kind.decode("latin-1")
    return ""


def _boxes_end(data: bytes) -> int:
    """Where the last of the boxes (ISO 14496-12) that follow one another ends."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:  # 0: until the end of the file
            break
        place += size
    return place
