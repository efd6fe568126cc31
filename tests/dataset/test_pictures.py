"""Any picture file ends as the picture that a person sees, or as a line that names the file."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from dreambooth.dataset.examining import examine
from dreambooth.dataset.finding import SUFFIXES, find_pictures
from dreambooth.dataset.pictures import MAX_PIXELS, open_picture
from dreambooth.errors import UserError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def red_left_blue_right(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def assert_red_left_blue_right(path: Path) -> None:
    image = open_picture(path)
    assert image.mode == "RGB"
    for x, wanted in ((0.25, RED), (0.75, BLUE)):
        found = image.getpixel((int(x * image.width), image.height // 2))
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 12, (path.name, found)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_format_opens(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".avif" and ".avif" not in Image.registered_extensions():
        path.write_bytes(b"\0\0\0\x1cftypavif")
        with pytest.raises(UserError, match=r"a\.avif: the installed Pillow can't read AVIF"):
            examine(path)
        return
    red_left_blue_right().save(path, quality=95)
    assert_red_left_blue_right(path)
    assert examine(path).size == (64, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # How a camera stores the upright picture under each orientation: the inverse of what undoes it.
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
    assert examine(tmp_path / "phone.jpg").size == (64, 32)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    red_left_blue_right().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00this is no TIFF header", quality=95)
    assert_red_left_blue_right(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["P", "CMYK"])
def test_palette_and_cmyk(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.png" if mode == "P" else "a.jpg")
    red_left_blue_right(mode).save(path, quality=95)
    with Image.open(path) as stored:
        assert stored.mode == mode
    assert_red_left_blue_right(path)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((255, 0, 0, 128), (4, 0, 8, 8))
    image.save(tmp_path / "alpha.png")
    shown = open_picture(tmp_path / "alpha.png")
    assert shown.getpixel((1, 1)) == (255, 255, 255)
    assert shown.getpixel((6, 1)) == (255, 127, 127)

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.paste(1, (4, 0, 8, 8))
    palette.save(tmp_path / "palette.png", transparency=0)
    shown = open_picture(tmp_path / "palette.png")
    assert shown.getpixel((1, 1)) == (255, 255, 255)
    assert shown.getpixel((6, 1)) == BLUE


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32896, 65535)):
        image.putpixel((x, 0), value)
    image.save(tmp_path / "a.png")
    shown = open_picture(tmp_path / "a.png")
    assert [shown.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    red_left_blue_right().save(tmp_path / "a.png", format="JPEG", quality=95)
    assert_red_left_blue_right(tmp_path / "a.png")


@pytest.mark.parametrize("host_fills_truncated", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_a_truncated_picture_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, host_fills_truncated: bool
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host_fills_truncated)
    path = tmp_path / f"cut{suffix}"
    Image.effect_noise((200, 200), 80).convert("RGB").save(path)
    assert examine(path).size == (200, 200)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(UserError, match=rf"cut\{suffix}: is cut off"):
        examine(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is host_fills_truncated


def bomb(path: Path) -> None:
    """A one-colour PNG of more pixels than allowed, in a few kB, made without holding it in memory."""
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
        (lambda path: path.write_text("hello"), "is no picture that can be read"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.mkdir(), "can't be read"),
        (bomb, "more than 89 million pixels"),
        (
            lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
            "is no picture",
        ),
    ],
    ids=["text", "empty", "folder", "bomb", "postscript"],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, make, complaint: str) -> None:
    path = tmp_path / "小猫 one.png"
    make(path)
    with pytest.raises(UserError, match=complaint) as caught:
        examine(path)
    assert str(caught.value).startswith(str(path))


def test_finding_pictures(tmp_path: Path) -> None:
    names = ["10.png", "2.png", "B.JPG", "a b.webp", "sub/3.jpeg", "小猫/1.bmp"]
    hidden = [".hidden.png", "._2.png", "Thumbs.db", "notes.txt", "@eaDir/2.png", ".cache/x.png"]
    for name in names + hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
    assert found == ["2.png", "10.png", "a b.webp", "B.JPG", "sub/3.jpeg", "小猫/1.bmp"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    pictures, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    pictures.mkdir()
    elsewhere.mkdir()
    (elsewhere / "1.png").write_bytes(b"x")
    (pictures / "linked").symlink_to(elsewhere)
    (pictures / "linked again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(pictures)
    assert find_pictures(pictures) == [pictures / "linked" / "1.png"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        find_pictures(tmp_path / "nowhere")
