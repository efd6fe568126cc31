"""Damage and wrong formats, detected from a file's structure where decoders ignore or don't explain them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from dreambooth.images.issues import UnusableFile

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_GIF = (b"GIF87a", b"GIF89a")
_TIFF = (b"II*\0", b"MM\0*")
# Other formats found under the names of images: offset, magic bytes, name of the format.
_OTHER_FORMATS = (
    (4, b"ftyphei", "a HEIC image"), (4, b"ftyphev", "a HEIC image"), (4, b"ftypmif1", "a HEIC image"),
    (0, b"\xff\x0a", "a JPEG XL image"), (4, b"JXL ", "a JPEG XL image"), (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"8BPS", "a Photoshop file"), (0, b"%PDF", "a PDF"), (0, b"%!PS", "a PostScript drawing"),
    (4, b"ftyp", "a video"), (0, b"\x1aE\xdf\xa3", "a video"), (0, b"PK\3\4", "a ZIP archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer whose file was not downloaded"),
)  # fmt: skip
_MARKUP = ((b"<svg", "an SVG drawing"), (b"<html", "a web page"), (b"<!doctype html", "a web page"))
_MIN_BYTES = 32  # no image of any format is shorter


def require_complete(data: bytes, path: str | Path) -> None:
    """UnusableFile for an image that is truncated or has a wrong checksum, as far as its structure shows."""
    damaged_chunk = _wrong_checksum(data) if data.startswith(_PNG) else ""
    if is_truncated(data):
        raise UnusableFile(path, "truncated", "is truncated: the file ends before the image does. Replace it.")
    if damaged_chunk:
        raise UnusableFile(path, "unreadable", f"is damaged (wrong checksum of its {damaged_chunk} chunk). Replace it.")


def detect_other_format(data: bytes) -> str:
    """The name of the format of a file that is not a supported image; "" if unknown."""
    for offset, magic, name in _OTHER_FORMATS:
        if data.startswith(magic, offset):
            return name
    text = data[:1000].lower()
    return next((name for mark, name in _MARKUP if mark in text), "")


def is_truncated(data: bytes) -> bool:
    """Whether the structure of the file shows that its end is missing."""
    if data.startswith(_PNG):
        return not any(kind == b"IEND" for kind, _, _ in _png_chunks(data))
    if data.startswith(_TIFF):  # the offset of the first directory
        order = "little" if data[:2] == b"II" else "big"
        return int.from_bytes(data[4:8], order) + 2 > len(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    if data.startswith(_GIF) and len(data) > _MIN_BYTES:
        has_palette, n_colors = data[10] & 0x80, 2 << (data[10] & 7)
        return bool(has_palette) and len(data) < 13 + 3 * n_colors
    return len(data) < _MIN_BYTES and data.startswith((_JPEG, *_GIF, b"BM"))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end of the body) of each readable chunk, IEND last."""
    position = len(_PNG)
    while position + 8 <= len(data):
        kind, start = data[position + 4 : position + 8], position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        if kind != b"IEND" and end + 4 > len(data):
            return
        yield kind, start, end
        if kind == b"IEND":
            return
        position = end + 4


def _wrong_checksum(data: bytes) -> str:
    """The type of the first PNG chunk whose CRC is wrong; "" when all are right."""
    view = memoryview(data)
    for kind, start, end in _png_chunks(data):
        stored = data[end : end + 4]
        if len(stored) == 4 and zlib.crc32(view[start - 4 : end]) != int.from_bytes(stored, "big"):
            return kind.decode("latin-1")
    return ""


def _boxes_end(data: bytes) -> int:
    """The end of the last of the consecutive boxes (ISO 14496-12)."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size < 8:  # 0: until the end of the file
            break
        position += size
    return position
