"""Prepared images: cropped as in training, in every format, with correct colors."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from dreambooth.actions.images import prepare
from dreambooth.dataset.planning import make_plan
from dreambooth.dataset.table import table
from dreambooth.images.buckets import bucket_sizes, fit
from dreambooth.images.cropping import crop_to_bucket, smart_crop
from dreambooth.images.decoding import open_image
from dreambooth.images.probe import probe
from dreambooth.settings import Concept, Settings
from dreambooth.settings.preparation import PrepareOptions
from tests.images.scenes import near, scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    return path


# -- sizes and crops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", ["centre", "smart"])
@pytest.mark.parametrize("enlarge", [False, True])
def test_prepared_images_are_not_cropped_again_in_training(folder, crop, enlarge):
    for n, size in enumerate([(640, 427), (427, 640), (900, 200), (130, 97), (57, 71), (512, 512), (301, 499)]):
        scene(size, seed=n).save(folder / f"{n}.png")
    bounds = {"resolution": 256, "bucket_step": 32, "bucket_min_side": 160, "bucket_max_side": 352}
    done = prepare(folder, PrepareOptions(crop=crop, enlarge=enlarge, **bounds))
    plan = make_plan([Concept(instance_data_dir=str(done.out))], Settings(**bounds))
    assert [row["kept"] for row in table(plan)] == [1.0] * 7
    before = make_plan([Concept(instance_data_dir=str(folder))], Settings(**bounds))
    assert [e.bucket for e in plan.examples] == [e.bucket for e in before.examples]
    sizes = [Image.open(change.destination).size for change in done.changes]
    assert sizes == [change.new_size for change in done.changes]
    upscaled = [new > old for change in done.changes for new, old in zip(change.new_size, change.size, strict=True)]
    assert any(upscaled) == enlarge
    if crop == "centre":  # the same pixels as the crop of training
        ours = open_image(done.changes[0].destination)
        planned = before.examples[0].crop
        whole = open_image(folder / "0.png").resize((planned.resized_w, planned.resized_h), Image.Resampling.LANCZOS)
        box = planned.left, planned.top, planned.left + planned.width, planned.top + planned.height
        difference = [abs(a - b) for a, b in zip(ours.tobytes(), whole.crop(box).tobytes(), strict=True)]
        assert sum(difference) / len(difference) < 2


def test_the_long_side_and_one_size_for_all(folder):
    scene((400, 200)).save(folder / "big.png")
    scene((40, 80)).save(folder / "small.png")

    def sizes(**options):
        return [change.new_size for change in prepare(folder, PrepareOptions(**options), dry_run=True).changes]

    assert sizes() == [(400, 200), (40, 80)]
    assert sizes(long_side=100) == [(100, 50), (40, 80)]
    assert sizes(long_side=100, enlarge=True) == [(100, 50), (50, 100)]
    assert sizes(crop="centre", fixed_size="100 x 60") == [(100, 60), (40, 24)]
    assert sizes(crop="centre", fixed_size="100x60", enlarge=True) == [(100, 60)] * 2


@pytest.mark.parametrize("at", [0.12, 0.3, 0.5, 0.7, 0.88])
@pytest.mark.parametrize("upright", [False, True])
def test_a_smart_crop_contains_the_salient_part(at, upright):
    size, where = ((400, 900), (0.5, at)) if upright else ((900, 400), (at, 0.5))
    image = scene(size, where)
    for buckets in ([(256, 256)], bucket_sizes(256, 64)):
        centred = crop_to_bucket(image.size, buckets)
        moved = smart_crop(image, centred)
        assert smart_crop(image, centred) == moved
        scale = moved.resized_w / image.width
        x, y = (part * side * scale for part, side in zip(where, size, strict=True))
        radius = min(size) // 6 * scale
        assert moved.left <= max(0, x - radius) + 1 and x + radius <= moved.left + moved.width + 1
        assert moved.top <= max(0, y - radius) + 1 and y + radius <= moved.top + moved.height + 1
        assert 0 <= moved.left <= moved.resized_w - moved.width and 0 <= moved.top <= moved.resized_h - moved.height


def test_an_image_one_pixel_high_can_be_cropped(folder):
    Image.effect_noise((70_000, 1), 90).save(folder / "line.png")
    [change] = prepare(folder, PrepareOptions(crop="smart", resolution=64, bucket_step=32, enlarge=True)).changes
    assert Image.open(change.destination).size == change.new_size == (64, 64)
    assert change.transform.crop.resized_h == 64 and change.transform.crop.resized_w == 64 * 70_000


def test_a_plain_image_is_center_cropped():
    for image in (Image.new("RGB", (300, 100), "teal"), scene((300, 100))):
        crop = fit(image.size, [(64, 64)])
        moved = smart_crop(image, crop)
        assert abs(moved.left - crop.left) <= 0.1 * crop.resized_w and moved.top == 0


# -- pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "suffix", "kind"),
    [("PNG", ".png", "PNG"), ("JPEG", ".jpg", "JPEG"), ("WebP", ".webp", "WEBP"), ("WebP lossless", ".webp", "WEBP")],
)
def test_every_format(folder, format, suffix, kind):
    original = scene()
    for name in ("a.png", "b.jpg", "c.bmp", "d.gif", "e.tif", "f.webp", "g.jpeg"):
        original.save(folder / name)
    original.save(folder / "h.png", "JPEG")  # a JPEG with the extension of a PNG
    done = prepare(folder, PrepareOptions(format=format))
    assert {path.name for path in done.out.iterdir()} == {
        *(f"{letter}{suffix}" for letter in "abcdefh"),
        "g.jpeg" if kind == "JPEG" else f"g{suffix}",
    }
    for change in done.changes:
        with Image.open(change.destination) as image:
            assert image.format == kind
        if change.source.suffix in (".png", ".bmp") and change.source.name != "h.png":
            same = open_image(change.destination).tobytes() == original.tobytes()
            assert same == (format in ("PNG", "WebP lossless"))
    copied = {change.source.name for change in done.changes if not change.transform.reencode}
    assert copied == {"PNG": {"a.png"}, "JPEG": {"b.jpg", "g.jpeg", "h.png"}, "WebP": {"f.webp"}}.get(format, set())


def test_as_it_is_copies_bytes_or_stays_lossless(folder):
    scene().save(folder / "lossless.webp", lossless=True)
    scene().save(folder / "a.gif")
    scene().save(folder / "b.JPG", quality=70)
    scene().convert("L").save(folder / "gray.png")
    done = prepare(folder, PrepareOptions())
    assert (done.out / "b.JPG").read_bytes() == (folder / "b.JPG").read_bytes()
    assert Image.open(done.out / "a.png").format == "PNG"
    done = prepare(folder, PrepareOptions(mirror="instead", quality=30))
    mirrored = open_image(done.out / "lossless.webp").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert mirrored.tobytes() == scene().tobytes()
    assert Image.open(done.out / "b.JPG").format == "JPEG" and done.out.name == "photos-prepared-2"


def test_transparency_is_kept_or_flattened(folder):
    source = Image.new("RGBA", (64, 64), (0, 0, 255, 0))
    source.paste((255, 0, 0, 255), (0, 0, 32, 64))
    source.save(folder / "a.png")
    source.save(folder / "b.webp", lossless=True)
    source.convert("P").save(folder / "c.gif", transparency=source.convert("P").getpixel((60, 5)))

    def made(name, **options):
        done = prepare(folder, PrepareOptions(**options))
        with Image.open(next(change.destination for change in done.changes if change.source.name == name)) as image:
            image.load()
            return image

    transparent = made("a.png", crop="centre", fixed_size="32x32")
    assert transparent.mode == "RGBA" and transparent.getpixel((30, 5))[3] == 0
    assert transparent.getpixel((1, 5)) == (255, 0, 0, 255)
    for name in ("a.png", "b.webp", "c.gif"):
        assert made(name, format="WebP lossless", mirror="instead").getpixel((1, 5))[3] == 0
        flat = made(name, flatten="#00ff00", format="PNG")
        assert flat.mode == "RGB" and flat.getpixel((60, 5)) == (0, 255, 0) and near(flat.getpixel((1, 5)), (255, 0, 0))
    assert near(made("a.png", format="JPEG").getpixel((60, 5)), (255, 255, 255))


def test_odd_modes_are_written_in_every_format(folder):
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I", "CMYK"):
        suffix = {"CMYK": "jpg", "PA": "tif", "I": "tif"}.get(mode, "png")
        image = scene().convert("L").convert("I").convert(mode) if mode in ("I", "I;16") else None
        image = image or scene().convert("LA" if mode == "PA" else mode)
        image.save(folder / f"{mode.replace(';', '')}.{suffix}")
    key = b"tRNS\0\5"  # one gray level is transparent; older Pillows read this, but don't write it
    data = (folder / "I16.png").read_bytes()
    chunk = (2).to_bytes(4, "big") + key + zlib.crc32(key).to_bytes(4, "big")
    (folder / "key.png").write_bytes(data[:33] + chunk + data[33:])  # after the header
    scene().convert("L").save(folder / "gray key.png", transparency=5)
    for format in ("PNG", "JPEG", "WebP", "as it is"):
        for mirror in ("no", "instead"):
            done = prepare(folder, PrepareOptions(format=format, mirror=mirror, strip_metadata=True))
            assert len(done.changes) == 12 and not done.skipped
            for change in done.changes:
                assert probe(change.destination).size == change.new_size


def test_metadata_is_removed_or_kept(folder):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6  # a phone held upright
    exif[0x8825] = {1: "N"}  # GPS
    scene((90, 60)).save(folder / "a.jpg", exif=exif, comment="secret place")
    prompts = PngImagePlugin.PngInfo()
    prompts.add_text("parameters", "a secret prompt, Steps: 20")
    scene().save(folder / "b.png", pnginfo=prompts)
    stripped = prepare(folder, PrepareOptions(strip_metadata=True)).out
    for path in stripped.iterdir():
        data = path.read_bytes()
        assert b"Camera" not in data and b"secret" not in data and not Image.open(path).getexif()
    assert Image.open(stripped / "a.jpg").size == (60, 90) == probe(folder / "a.jpg").size
    assert open_image(stripped / "b.png").tobytes() == scene().tobytes()
    with_metadata = prepare(folder, PrepareOptions(mirror="instead")).out
    exif = Image.open(with_metadata / "a.jpg").getexif()
    assert exif[0x010F] == "Camera" and 0x0112 not in exif and exif.get_ifd(0x8825)
    assert Image.open(with_metadata / "b.png").text["parameters"].startswith("a secret")


def test_color_profiles_are_converted(folder):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    wide = bytearray(srgb.tobytes())
    # Red and green swapped: clearly not sRGB, and possible with every Pillow.
    red, green = wide.index(b"rXYZ"), wide.index(b"gXYZ")
    wide[red : red + 4], wide[green : green + 4] = b"gXYZ", b"rXYZ"
    wide = bytes(wide).replace("sRGB".encode("utf-16-be"), "Odd!".encode("utf-16-be")).replace(b"sRGB", b"Odd!")
    for name, color in (("odd.png", (255, 0, 0)), ("through.png", (255, 0, 0, 128))):
        Image.new("RGBA"[: len(color)], (32, 32), color).save(folder / name, icc_profile=wide)
    Image.new("RGB", (32, 32), (255, 0, 0)).save(folder / "plain.png", icc_profile=srgb.tobytes())
    Image.new("RGB", (32, 32), (255, 0, 0)).save(folder / "bad.png", icc_profile=b"nonsense")
    Image.new("RGB", (32, 32), (255, 0, 0)).save(folder / "lab.png", icc_profile=lab.tobytes())
    done = prepare(folder, PrepareOptions())
    steps = {change.source.name: "; ".join(change.steps) for change in done.changes}
    for name in ("odd.png", "through.png"):
        assert "to sRGB" in steps.pop(name)
        image = Image.open(done.out / name)
        assert near(image.getpixel((5, 5))[:3], (0, 255, 0), off=3) and "icc_profile" not in image.info
    assert image.mode == "RGBA" and image.getpixel((5, 5))[3] == 128
    assert set(steps.values()) == {"copied unchanged"}


def test_masks_are_cropped_with_their_images(folder):
    image, mask = scene((96, 64), at=(0.8, 0.5)), Image.new("L", (48, 32))
    ImageDraw.Draw(mask).ellipse((33, 11, 43, 21), fill=255)
    image.save(folder / "a.png")
    mask.save(folder / "a_mask.webp", lossless=True)
    (folder / "a.txt").write_text("a disc")
    options = PrepareOptions(crop="smart", fixed_size="64x64", mirror="add copies", rename="{folder}-{n:02}")
    done = prepare(folder, options)
    names = {"photos-01.png", "photos-01.txt", "photos-01_mask.png"}
    assert {path.name for path in done.out.iterdir()} == names | {
        name.replace("-01", "-01-mirrored") for name in names
    }  # fmt: skip
    for stem in ("photos-01", "photos-01-mirrored"):
        cropped, cropped_mask = open_image(done.out / f"{stem}.png"), open_image(done.out / f"{stem}_mask.png")
        assert cropped.size == cropped_mask.size == (64, 64)
        places = [(x, y) for x in range(64) for y in range(64)]
        red = {place for place in places if near(cropped.getpixel(place), (255, 0, 0), 40)}
        white = {place for place in places if cropped_mask.getpixel(place)[0] > 127}
        assert len(red & white) > 0.8 * len(red) and len(white) < 2 * len(red)
    images = [open_image(done.out / f"photos-01{end}.png") for end in ("", "-mirrored")]
    assert images[0].tobytes() == images[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
