"""A folder of broken and unusual image files, each with the issue that must be reported.

python tests/images/odd_images.py FOLDER     plans the folder, prints its examples and issues as JSON
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

SIDE = 96
Make = Callable[[Path], None]


def noise(seed: int, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB") -> Image.Image:
    """An image of soft blobs, different for each seed."""
    state, values = seed + 1, bytearray()
    for _ in range(48):
        state = (state * 1103515245 + 12345) % 2**31
        values.append(state >> 16 & 255)
    return Image.frombytes("RGB", (4, 4), bytes(values)).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(*chunks: tuple[bytes, bytes], checksum: int = 0) -> bytes:
    """A PNG of these chunks; ``checksum`` is XORed into theirs."""
    made = b"\x89PNG\r\n\x1a\n"
    for kind, body in (*chunks, (b"IEND", b"")):
        made += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ checksum)
    return made


def header(width: int, height: int, depth: int = 8, colors: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colors, 0, 0, 0)


def wide_gamut() -> bytes:
    """A color profile with the primaries of Display P3 and a gamma of 2.2 (ICC.1:2001-04, a matrix profile)."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    parts = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Wide gamut\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1571, 0.0666, 0.7841),
        **{tag: b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) for tag in (b"rTRC", b"gTRC", b"bTRC")},
    }
    place, table, bodies = 128 + 4 + 12 * len(parts), b"", b""
    for tag, body in parts.items():
        body += bytes(-len(body) % 4)
        table += tag + struct.pack(">II", place + len(bodies), len(body))
        bodies += body
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s12s4s", place + len(bodies), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ",
                       struct.pack(">6H", 2024, 1, 1, 0, 0, 0), b"acsp")  # fmt: skip
    head += bytes(28) + white
    return head + bytes(128 - len(head)) + struct.pack(">I", len(parts)) + table + bodies


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def odd_images() -> dict[str, tuple[Make, str]]:
    """By name: (function that creates it, kind of issue; "" for none, with a star for a file that is left out)."""
    made: dict[str, tuple[Make, str]] = {}

    def of(name: str, data: bytes, kind: str) -> None:
        made[name] = (lambda path: path.write_bytes(data), kind)

    whole = {"png": {}, "jpg": {}, "webp": {}, "bmp": {}, "gif": {}, "tif": {"compression": "tiff_lzw"}, "avif": {}}
    names = {"jpg": "JPEG", "tif": "TIFF"}
    if ".avif" not in Image.registered_extensions():
        del whole["avif"]
    for number, (suffix, options) in enumerate(whole.items()):
        data = encoded(noise(number), names.get(suffix, suffix.upper()), **options)
        of(f"whole.{suffix}", data, "")
        for share in (0.1, 0.5, 0.98):
            of(f"cut at {share}.{suffix}", data[: int(len(data) * share)], "*truncated")
        of(f"only a header.{suffix}", data[:24], "*truncated")
    _of_damage(of)
    _of_sizes(of)
    _of_colors(of)
    _of_containers(of)
    _of_names(of, made)
    _of_files(made)
    return made


def _of_damage(of: Callable[[str, bytes, str], None]) -> None:
    data = bytearray(encoded(noise(20), "PNG"))
    data[len(data) // 2] ^= 1
    of("a bit flipped.png", bytes(data), "*unreadable")
    lossless = bytearray(encoded(noise(21), "WEBP", lossless=True))
    lossless[24] ^= 255
    of("damaged head.webp", bytes(lossless), "*unreadable")
    pixels = zlib.compress(bytes(3 * 64 * 65))
    of("wrong checksums.png", png(header(64, 64), (b"IDAT", pixels), checksum=1), "*unreadable")
    of("no pixels.png", png(header(64, 64)), "*unreadable")
    of("too few pixels.png", png(header(64, 64), (b"IDAT", zlib.compress(bytes(300)))), "*truncated")
    of("no zlib.png", png(header(64, 64), (b"IDAT", b"not compressed at all")), "*unreadable")
    of("impossible depth.png", png(header(64, 64, 7), (b"IDAT", pixels)), "*unreadable")
    bomb = b"bomb\0\1\0\0\0" + zlib.compress(bytes(64 * 2**20))
    of("bomb of text.png", png(header(64, 64), (b"iTXt", bomb), (b"IDAT", pixels)), "*too-large")
    of("bomb of pixels.png", png(header(64, 64), (b"IDAT", zlib.compress(bytes(64 * 2**20)))), "")
    of("no markers.jpg", b"\xff\xd8\xff\xe0" + bytes(200), "*unreadable")
    of("zeros.jpg", bytes(5000), "*unreadable")
    of("empty.png", b"", "*empty")
    of("empty.jpg", b"", "*empty")


def _of_sizes(of: Callable[[str, bytes, str], None]) -> None:
    of("1x1.png", encoded(Image.new("RGB", (1, 1), "red"), "PNG"), "enlarged")
    of("1x5000.png", encoded(Image.new("RGB", (1, 5000), "green"), "PNG"), "cropped")
    of("5000x1.webp", encoded(Image.new("RGB", (5000, 1), "blue"), "WEBP"), "cropped")
    of("panorama.jpg", encoded(noise(22, (900, 200)), "JPEG"), "cropped")
    of("huge.png", png(header(30_000, 30_000), (b"IDAT", zlib.compress(bytes(9)))), "*too-large")
    of(
        "huge.gif",
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b"," + bytes(40),
        "*too-large",
    )
    of("huge.bmp", b"BM" + struct.pack("<IIIIiiHHIIiiII", 10**6, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
       + bytes(99), "*too-large")  # fmt: skip
    frame = encoded(noise(23), "JPEG")
    place = frame.index(b"\xff\xc0") + 5
    of("huge.jpg", frame[:place] + struct.pack(">HH", 30_000, 30_000) + frame[place + 4 :], "*too-large")
    one_bit = zlib.compress(bytes((30_000 // 8 + 1) * 30_000))
    of("huge and true.png", png(header(30_000, 30_000, 1, 0), (b"IDAT", one_bit)), "*too-large")


def _of_colors(of: Callable[[str, bytes, str], None]) -> None:
    gray = noise(30, mode="L").convert("I").point(lambda value: value * 257).convert("I;16")
    of("16 bit gray.png", encoded(gray, "PNG"), "deep")
    of("16 bit gray.tif", encoded(gray.transpose(Image.Transpose.ROTATE_90), "TIFF"), "deep")
    rows = b"".join(b"\0" + bytes(6 * x * y % 256 for x in range(64 * 6)) for y in range(64))
    of("16 bit.png", png(header(64, 64, 16), (b"IDAT", zlib.compress(rows))), "deep")
    of("floats.tif", encoded(noise(31, mode="L").convert("F"), "TIFF"), "deep")
    of("two colors.png", encoded(noise(32, mode="1"), "PNG"), "")
    of("palette, transparent.png", encoded(noise(33).quantize(8), "PNG", transparency=0), "transparent")
    transparent = noise(34)
    transparent.putalpha(noise(35, mode="L"))
    of("transparent.webp", encoded(transparent, "WEBP", lossless=True), "transparent")
    of("gray, transparent.png", encoded(transparent.rotate(90).convert("LA"), "PNG"), "transparent")
    of("cmyk.jpg", encoded(noise(36, mode="CMYK"), "JPEG", quality=95), "cmyk")
    of("cmyk.tif", encoded(noise(37, mode="CMYK"), "TIFF"), "cmyk")
    from PIL import ImageCms

    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    of("lab.tif", encoded(ImageCms.applyTransform(noise(38), lab), "TIFF"), "profile")
    of("wide gamut.jpg", encoded(noise(39), "JPEG", icc_profile=wide_gamut()), "profile")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    of("srgb.jpg", encoded(noise(40), "JPEG", icc_profile=srgb), "")
    of("damaged profile.jpg", encoded(noise(41), "JPEG", icc_profile=b"no profile" * 20), "profile-damaged")


def _of_containers(of: Callable[[str, bytes, str], None]) -> None:
    for orientation in range(1, 9):
        data = encoded(noise(50 + orientation), "JPEG", exif=exif(orientation))
        of(f"turned {orientation}.jpg", data, "turned" if orientation > 1 else "")
    of("turned.png", encoded(noise(60), "PNG", exif=exif(6)), "turned")
    of("orientation 77.jpg", encoded(noise(61), "JPEG", exif=exif(77)), "")
    of("damaged exif.jpg", encoded(noise(62), "JPEG", exif=b"Exif\0\0this is no TIFF header"), "exif-damaged")
    of("jpeg.png", encoded(noise(63), "JPEG"), "mislabelled")
    of("png.jpg", encoded(noise(64), "PNG"), "mislabelled")
    of("webp.jpeg", encoded(noise(65), "WEBP"), "mislabelled")
    of("progressive.jpg", encoded(noise(66), "JPEG", progressive=True), "")
    of("two images.jpg", encoded(noise(67), "MPO", save_all=True, append_images=[noise(68)]), "")
    frames = {"save_all": True, "append_images": [noise(70), noise(71)]}
    of("moving.gif", encoded(noise(72), "GIF", **frames), "animated")
    of("moving.webp", encoded(noise(73), "WEBP", **frames), "animated")
    of("moving.png", encoded(noise(74), "PNG", **frames), "animated")
    of("pages.tif", encoded(noise(75), "TIFF", **frames), "animated")
    of("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "*unreadable")
    of("page.jpg", b"<!DOCTYPE html><title>404 Not Found</title>" + b" " * 99, "*unreadable")
    of("text.png", "Ich bin kein Bild. 我不是图片。".encode() * 9, "*unreadable")
    of("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "*unreadable")
    of("program.png", b"\x7fELF" + bytes(300), "*unreadable")
    of("phone, called.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "*unreadable")
    of("phone.HEIC", b"\0\0\0\x18ftypheic" + bytes(99), "*other-format")
    of("vectors.svg", b"<svg/>", "*other-format")
    of("twin 1.png", encoded(noise(80), "PNG"), "")
    _of_endings(of)
    of("twin 2.png", encoded(noise(80), "PNG"), "duplicate")
    of("twin 3, nearly.jpg", encoded(noise(80).resize((300, 300)), "JPEG", quality=60), "near-duplicate")


def _of_endings(of: Callable[[str, bytes, str], None]) -> None:
    """Unusual file extensions, none, and wrong ones."""
    formats = {"MPO": ["phone.mpo"], "JPEG": ["a.jpe", "b.JIF", "c.pjpeg"], "PNG": ["d.apng", "no ending"],
               "PPM": ["e.pnm", "f.PGM"], "DIB": ["g.dib"], "BMP": ["h.dib"]}  # fmt: skip
    named = [(format_name, name) for format_name, names in formats.items() for name in names]
    for number, (format_name, name) in enumerate(named):
        of(name, encoded(noise(200 + number), format_name), "")
    of("2024.01.02 a photo", encoded(noise(220), "JPEG"), "mislabelled")
    of("thumbnail.dat", encoded(noise(221), "WEBP"), "mislabelled")
    of("cut.pgm", encoded(noise(222), "PPM")[:-90], "*truncated")
    of("no ending, HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "*unreadable")
    for name in ("raw.DNG", "layers.psd", "icon.ico"):
        of(name, encoded(noise(223), "PNG"), "*other-format")
    for name in ("clip.MOV", "all.zip", "brochure.pdf", "photo.jpg.lnk", "half.png.crdownload", "e.png.bak", "e.png~"):
        of(name, encoded(noise(224), "PNG"), "*not-image")
    for name in ("whole.npz", "meta.json", "words.md", "no ending, a program", "unknown.xyz", "BM no bitmap.x"):
        of(name, b"BM" + bytes(2) + b"it is no bitmap", "side-file")


def _of_names(of: Callable[[str, bytes, str], None], made: dict[str, tuple[Make, str]]) -> None:
    names = ["小猫.png", "кошка.png", "قطة.png", "🐈\u200d⬛.png", "quo\"te'.png", "-rf *.png", "%s {x}.png",
             "two\nlines.png", "right\u202eto left.png", "n" * 251 + ".png", ".png", "no suffix.PNG"]  # fmt: skip
    for number, name in enumerate(names):
        of(name, encoded(noise(100 + number), "PNG"), "*hidden" if name == ".png" else "")
    of(os.fsdecode(b"no utf-8 \xff\xfe.png"), encoded(noise(120), "PNG"), "")
    for name in ("._camera.jpg", ".hidden.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
        of(name, b"x", "*hidden")
    made["@eaDir"] = (lambda path: (path.mkdir(), (path / "thumb.jpg").write_bytes(b"x")), "*hidden")
    of("nobody.txt", b"a caption without an image", "orphan")
    of("shared.png", encoded(noise(121), "PNG"), "caption-shared")
    of("shared.jpg", encoded(noise(122), "JPEG"), "")
    of("shared.txt", b"a toy", "")
    of("latin.png", encoded(noise(123), "PNG"), "caption-encoding")
    of("latin.txt", "café".encode("cp1252"), "")
    of("wordless.png", encoded(noise(124), "PNG"), "empty-caption")
    of("wordless.txt", b" \n", "")
    of("zeros in words.png", encoded(noise(125), "PNG"), "*caption-unreadable")
    of("zeros in words.txt", bytes(50), "")
    of("waits for words.png", encoded(noise(126), "PNG"), "*caption-unreadable")
    made["waits for words.txt"] = (os.mkfifo, "")
    of("words without end.png", encoded(noise(127), "PNG"), "*caption-unreadable")
    made["words without end.txt"] = (lambda path: path.symlink_to("/dev/zero"), "")
    of("a terabyte of words.png", encoded(noise(128), "PNG"), "*caption-unreadable")
    made["a terabyte of words.txt"] = (lambda path: (path.touch(), os.truncate(path, 2**40)), "")


def _of_files(made: dict[str, tuple[Make, str]]) -> None:
    made["pipe.png"] = (os.mkfifo, "*not-a-file")
    made["folder.png"] = (Path.mkdir, "*not-a-file")
    made["broken link.png"] = (lambda path: path.symlink_to("nowhere.png"), "*not-a-file")
    made["circle.png"] = (lambda path: path.symlink_to(path), "*not-a-file")
    made["device.png"] = (lambda path: path.symlink_to("/dev/zero"), "*not-a-file")
    made["round and round"] = (lambda path: path.symlink_to(path.parent, target_is_directory=True), "")
    made["z, a link.png"] = (lambda path: path.symlink_to("whole.png"), "duplicate")
    made["sparse.png"] = (lambda path: (path.touch(), os.truncate(path, 2**40)), "*too-large")
    made["socket.png"] = (_socket, "*not-a-file")
    made["pipe"] = (os.mkfifo, "")


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def main() -> None:
    from dreambooth.dataset.planning import make_plan
    from dreambooth.settings import Concept, Settings

    concept = Concept(instance_data_dir=sys.argv[1], instance_prompt="[filewords]")
    plan = make_plan([concept], Settings(resolution=128, bucket_step=32))
    print(json.dumps({
        "planned": [example.path.name for example in plan.examples],
        "notes": [[note.path.name, note.kind, note.left_out, note.text] for note in plan.issues],
        "warnings": plan.warnings,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
