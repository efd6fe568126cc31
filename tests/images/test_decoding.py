"""Every image file is decoded as a viewer would show it, or reported by name."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms, ImageFile, ImageStat

from dreambooth.errors import UserError
from dreambooth.images.decoding import MAX_PIXELS, open_image
from dreambooth.images.file_kinds import FORMATS, IMAGE_EXTENSIONS
from dreambooth.images.listing import find_images, scan_folder
from dreambooth.images.probe import probe
from tests.images.odd_images import header, png, wide_gamut

RED, BLUE = (255, 0, 0), (0, 0, 255)


def red_left_blue_right(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def assert_red_left_blue_right(path: Path) -> None:
    image = open_image(path)
    assert image.mode == "RGB"
    for x, wanted in ((0.25, RED), (0.75, BLUE)):
        found = image.getpixel((int(x * image.width), image.height // 2))
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 12, (path.name, found)


@pytest.mark.parametrize("suffix", sorted(IMAGE_EXTENSIONS))
def test_every_format_opens(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".avif" and ".avif" not in Image.registered_extensions():
        path.write_bytes(b"\0\0\0\x0cftypavif")
        with pytest.raises(UserError, match=r"a\.avif: the installed Pillow can't read AVIF"):
            probe(path)
        return
    format_name = next(name for name, extensions in FORMATS.items() if suffix in extensions)
    red_left_blue_right().save(path, format_name, quality=95)
    assert_red_left_blue_right(path)
    assert probe(path).size == (64, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # How a camera stores the upright image under each orientation: the inverse of what undoes it.
    turn = Image.Transpose
    stored = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    upright = red_left_blue_right()
    image = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "phone.jpg", exif=exif, quality=95, subsampling=0)
    assert_red_left_blue_right(tmp_path / "phone.jpg")
    assert probe(tmp_path / "phone.jpg").size == (64, 32)


def test_damaged_exif_does_not_prevent_decoding(tmp_path: Path) -> None:
    red_left_blue_right().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00this is no TIFF header", quality=95)
    assert_red_left_blue_right(tmp_path / "a.jpg")


@pytest.mark.parametrize(("mode", "name"), [("P", "a.png"), ("CMYK", "a.jpg"), ("CMYK", "a.tif")])
def test_palette_and_cmyk(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name  # a CMYK JPEG is inverted, as Adobe's programs do it; a TIFF is not
    red_left_blue_right(mode).save(path, quality=95)
    with Image.open(path) as stored:
        assert stored.mode == mode
    assert_red_left_blue_right(path)


def test_transparency_is_flattened_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((255, 0, 0, 128), (4, 0, 8, 8))
    image.save(tmp_path / "alpha.png")
    shown = open_image(tmp_path / "alpha.png")
    assert shown.getpixel((1, 1)) == (255, 255, 255)
    assert shown.getpixel((6, 1)) == (255, 127, 127)

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.paste(1, (4, 0, 8, 8))
    palette.save(tmp_path / "palette.png", transparency=0)
    shown = open_image(tmp_path / "palette.png")
    assert shown.getpixel((1, 1)) == (255, 255, 255)
    assert shown.getpixel((6, 1)) == BLUE


def test_16_bit_gray_is_scaled_not_clipped(tmp_path: Path) -> None:
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32896, 65535)):
        image.putpixel((x, 0), value)
    image.save(tmp_path / "a.png")
    shown = open_image(tmp_path / "a.png")
    assert [shown.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_16_bit_colors_and_floats_are_scaled(tmp_path: Path) -> None:
    levels = (0, 32896, 65535)
    row = b"\0" + b"".join(struct.pack(">HHH", level, 0, 65535) for level in levels)
    (tmp_path / "a.png").write_bytes(png(header(3, 1, 16), (b"IDAT", zlib.compress(row))))
    shown = open_image(tmp_path / "a.png")
    assert [shown.getpixel((x, 0)) for x in range(3)] == [(0, 0, 255), (128, 0, 255), (255, 0, 255)]

    floats = Image.new("F", (3, 1))
    for x, value in enumerate((0.0, 0.5, 1.0)):
        floats.putpixel((x, 0), value)
    floats.save(tmp_path / "a.tif")
    shown = open_image(tmp_path / "a.tif")
    assert [shown.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def as_srgb(color: tuple[int, int, int]) -> list[float]:
    """A color of the profile `wide_gamut` in sRGB (IEC 61966-2-1), converted through XYZ (D50)."""
    linear = [(value / 255) ** 2.2 for value in color]
    to_xyz = [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]
    to_rgb = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540],
              [0.0719453, -0.2289914, 1.4052427]]  # fmt: skip
    for matrix in (to_xyz, to_rgb):
        linear = [sum(a * b for a, b in zip(row, linear, strict=True)) for row in matrix]
    clipped = [min(1.0, max(0.0, value)) for value in linear]
    return [255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055) for v in clipped]


@pytest.mark.parametrize("color", [(200, 60, 60), (60, 180, 80), (128, 128, 128), (255, 255, 255), (90, 90, 200)])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_color_profile_is_converted(tmp_path: Path, color: tuple[int, int, int], name: str) -> None:
    image = Image.new("RGB", (16, 16), color)
    image.save(tmp_path / name, icc_profile=wide_gamut(), quality=100)
    found = open_image(tmp_path / name).getpixel((8, 8))
    assert max(abs(a - b) for a, b in zip(found, as_srgb(color), strict=True)) < 4, (found, as_srgb(color))
    assert [kind for kind, _ in probe(tmp_path / name).findings] == ["profile"]


def test_the_profile_of_transparent_and_rotated_images_is_converted_too(tmp_path: Path) -> None:
    image = Image.new("RGBA", (16, 8), (200, 60, 60, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", icc_profile=wide_gamut(), exif=exif)
    shown = open_image(tmp_path / "a.png")
    assert shown.size == (8, 16)
    assert max(abs(a - 255) for a in shown.getpixel((4, 3))) < 2
    wanted = as_srgb((200, 60, 60))
    assert max(abs(a - b) for a, b in zip(shown.getpixel((4, 12)), wanted, strict=True)) < 4
    assert {kind for kind, _ in probe(tmp_path / "a.png").findings} == {"turned", "transparent", "profile"}


def test_opaque_srgb_is_unchanged(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red_left_blue_right("RGBA").save(tmp_path / "a.png", icc_profile=profile)
    assert open_image(tmp_path / "a.png").tobytes() == red_left_blue_right().tobytes()
    assert probe(tmp_path / "a.png").findings == ()


def test_lab_is_converted(tmp_path: Path) -> None:
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    gradient = Image.linear_gradient("L")
    turned = [gradient.rotate(turn).crop((60, 60, 200, 200)) for turn in (0, 90, 180)]
    image = Image.merge("RGB", turned)
    ImageCms.applyTransform(image, lab).save(tmp_path / "a.tif")
    difference = ImageChops.difference(open_image(tmp_path / "a.tif"), image)
    assert max(ImageStat.Stat(difference).mean) < 3  # Lab of 8 bits is coarse


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    red_left_blue_right().save(tmp_path / "a.png", format="JPEG", quality=95)
    assert_red_left_blue_right(tmp_path / "a.png")


@pytest.mark.parametrize("host_fills_truncated", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_a_truncated_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, host_fills_truncated: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host_fills_truncated)
    path = tmp_path / f"cut{suffix}"
    Image.effect_noise((200, 200), 80).convert("RGB").save(path)
    assert probe(path).size == (200, 200)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(UserError, match=rf"cut\{suffix}: is truncated"):
        probe(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is host_fills_truncated


def bomb(path: Path) -> None:
    """A one-color PNG of more pixels than allowed, in a few kB, made without holding it in memory."""
    width, height = 20_000, MAX_PIXELS // 20_000 + 1
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes((width // 8 + 1) * height))), (b"IEND", b"")]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in chunks:
            file.write(len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.write_text("hello"), "is not a readable image"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.mkdir(), "can't be read"),
        (bomb, "more than 89 million pixels"),
        (
            lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
            "is a PostScript drawing",
        ),
    ],
    ids=["text", "empty", "folder", "bomb", "postscript"],
)
def test_an_unreadable_file_is_named(tmp_path: Path, make, complaint: str) -> None:
    path = tmp_path / "小猫 one.png"
    make(path)
    with pytest.raises(UserError, match=complaint) as caught:
        probe(path)
    assert str(caught.value).startswith(str(path))


def test_finding_images(tmp_path: Path) -> None:
    names = ["10.png", "2.png", "B.JPG", "a b.webp", "sub/3.jpeg", "小猫/1.bmp"]
    hidden = [".hidden.png", "._2.png", "Thumbs.db", "notes.txt", "@eaDir/2.png", ".cache/x.png"]
    for name in names + hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("phone.heic", "2.txt", "lonely.txt", "README.txt", "sub/3.caption"):
        (tmp_path / name).write_bytes(b"x")

    def names_of(paths: list[Path]) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in paths]

    found = scan_folder(tmp_path)
    assert names_of(found.images) == ["2.png", "10.png", "a b.webp", "B.JPG", "sub/3.jpeg", "小猫/1.bmp"]
    assert found.images == find_images(tmp_path)
    assert set(names_of(found.hidden)) == {".cache", "._2.png", ".hidden.png", "@eaDir", "Thumbs.db"}
    assert names_of(found.unsupported) == ["phone.heic"]
    assert names_of(found.orphans) == ["lonely.txt", "notes.txt"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    images.mkdir()
    elsewhere.mkdir()
    (elsewhere / "1.png").write_bytes(b"x")
    (images / "linked").symlink_to(elsewhere)
    (images / "linked again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(images)
    assert find_images(images) == [images / "linked" / "1.png"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        find_images(tmp_path / "nowhere")
