from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dreambooth.dataset.cache import LatentCache, TextCache
from dreambooth.dataset.pixels import load_pixels
from dreambooth.dataset.plan import Example
from dreambooth.errors import UserError
from dreambooth.images.buckets import fit
from dreambooth.images.probe import probe


def example_of(path: Path, bucket: tuple[int, int]) -> Example:
    seen = probe(path)
    return Example(path, "a dog", "file name", 0, False, seen.content, seen.size, fit(seen.size, [bucket]))


def test_pixels_are_the_planned_crop(tmp_path: Path) -> None:
    # Black | gray | white thirds of a wide phone photo, stored on its side; the square crop keeps the
    # middle third and half of either neighbor.
    image = Image.new("L", (600, 300), 128)
    image.paste(0, (0, 0, 200, 300))
    image.paste(255, (400, 0, 600, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)

    pixels = load_pixels(example_of(path, (64, 64)))
    assert pixels.shape == (3, 64, 64) and pixels.dtype == torch.float32
    columns = pixels.mean(dim=(0, 1))
    assert columns[:8].max() < -0.9 and columns[56:].min() > 0.9 and columns[16:48].abs().max() < 0.1
    assert pixels.min() >= -1 and pixels.max() <= 1


@pytest.mark.parametrize("size", [(333, 777), (64, 64), (7, 5000), (31, 29)])
def test_cropping_first_equals_resizing_first(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "a.png"
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    example = example_of(path, (64, 48))
    crop = example.crop
    with Image.open(path) as image:
        whole = image.resize((crop.resized_w, crop.resized_h), Image.Resampling.LANCZOS)
    whole = whole.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    wanted = torch.tensor(list(whole.tobytes())).view(48, 64, 3).permute(2, 0, 1) / 127.5 - 1
    assert (load_pixels(example) - wanted).abs().max() < 0.05


def test_an_image_that_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(path)
    example = example_of(path, (64, 64))
    Image.new("RGB", (64, 64), "blue").save(path)
    with pytest.raises(UserError, match=r"a\.png changed since"):
        load_pixels(example)


def test_latents_are_found_by_content_crop_and_vae(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "red").save(path)
    example = example_of(path, (64, 64))
    cache = LatentCache(tmp_path / "cache", "vae 1")
    moments = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    assert cache.get(example) is None
    cache.put(example, moments)
    assert torch.equal(cache.get(example), moments)

    path.rename(tmp_path / "renamed.png")
    assert torch.equal(cache.get(replace(example, path=tmp_path / "renamed.png", caption="new")), moments)
    assert cache.get(replace(example, content="other")) is None
    for change in ({"crop": replace(example.crop, left=1)}, {"flipped": True}):
        assert cache.get(replace(example, **change)) is None
    assert LatentCache(tmp_path / "cache", "vae 2").get(example) is None


def test_embeddings_are_found_by_prompt_encoder_and_reading(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, "encoder 1", prompt_encoding=1)
    embedding = {"states": torch.randn(77, 8, generator=torch.Generator().manual_seed(0)), "pooled": torch.ones(4)}
    cache.put("小狗, a dog", embedding)
    found = cache.get("小狗, a dog")
    assert found.keys() == embedding.keys() and all(torch.equal(found[name], embedding[name]) for name in found)
    assert cache.get("a dog") is None
    assert TextCache(tmp_path, "encoder 1", prompt_encoding=2).get("小狗, a dog") is None
    assert TextCache(tmp_path, "encoder 2", prompt_encoding=1).get("小狗, a dog") is None


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-5], lambda data: b"x" * len(data)])
def test_a_damaged_cache_file_is_a_miss_and_mends(tmp_path: Path, damage) -> None:
    cache = TextCache(tmp_path, "encoder", prompt_encoding=1)
    embedding = {"states": torch.ones(77, 8)}
    cache.put("a", embedding)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get("a") is None
    cache.put("a", embedding)
    assert torch.equal(cache.get("a")["states"], embedding["states"])
    assert list(tmp_path.iterdir()) == [file]


def test_planning_needs_no_torch() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'transformers', 'diffusers'} & set(sys.modules)"
    code = f"import sys, dreambooth.dataset, dreambooth.dataset.planning; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
