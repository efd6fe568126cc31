"""Invalid checkpoints of later families, and unusual paths: one line, and nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_checkpoint
from dreambooth.errors import UserError
from dreambooth.models.sd.keys import UNET, VAE
from dreambooth.models.sd.sdxl import TEXT_1, TEXT_2
from tests.mini_models import make

SD2_TEXT = "cond_stage_model.model."
OUT = UNET + "out.2.weight"

Tensors = dict[str, torch.Tensor]
Files = dict[str, Tensors]


@pytest.fixture(scope="session")
def minis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("minis")
    return {kind: make(folder / f"{kind}.safetensors", kind) for kind in ("v1x", "v2x", "SDXL")}


def without(kind: str, *prefixes: str):
    return lambda files: {key: value for key, value in files[kind].items() if not key.startswith(prefixes)}


def with_value(kind: str, key: str, value: float):
    def change(files: Files) -> Tensors:
        changed = files[kind][key].clone()
        changed.view(-1)[-1] = value
        return {**files[kind], key: changed}

    return change


def quantized(files: Files) -> Tensors:
    return {**files["SDXL"], OUT: files["SDXL"][OUT].char()}


def scaled(files: Files) -> Tensors:
    """fp8 with separate scale factors, without which the values are meaningless."""
    narrow = files["SDXL"][OUT].to(torch.float8_e4m3fn)
    return {**files["SDXL"], OUT: narrow, UNET + "out.2.scale_weight": torch.tensor(0.1)}


WHOLE = r"is a Stable Diffusion {} checkpoint without "
ROWS: dict[str, tuple[Callable[[Files], Tensors], str]] = {
    "SDXL, VAE baked out": (without("SDXL", VAE), WHOLE.format("XL") + "VAE .*: select a VAE too"),
    "SDXL, half of the VAE": (without("SDXL", VAE + "encoder"), "without VAE encoder .*: select a VAE too"),
    "SD2, VAE baked out": (without("v2x", VAE), "without VAE .*: select a VAE too"),
    "SD2, no text encoder": (without("v2x", SD2_TEXT), "without text encoder"),
    "SDXL, one text encoder": (without("SDXL", TEXT_2), "without text encoder 2"),
    "SDXL, no text encoders": (without("SDXL", TEXT_1, TEXT_2), "without text encoder 1 .* and text encoder 2"),
    "SDXL, no unet": (without("SDXL", UNET), "is a VAE, not|not a known kind of model"),
    "NaN in a fused tensor": (
        with_value("SDXL", TEXT_2 + "transformer.resblocks.0.attn.in_proj_weight", float("nan")),
        "in_proj_weight has NaN or infinite values",
    ),
    "infinity in a projection": (
        with_value("SDXL", TEXT_2 + "text_projection", float("inf")),
        "has NaN or infinite values",
    ),
    "quantized": (quantized, "is quantized"),
    "scaled fp8": (scaled, "is quantized"),
    "a text layer missing": (without("SDXL", TEXT_2 + "transformer.resblocks.1.attn"), "incomplete: 8 tensors"),
    "no projection": (without("SDXL", TEXT_2 + "text_projection"), "text_projection"),
    "no sizes": (without("SDXL", UNET + "label_emb"), "label_emb"),
}


@pytest.mark.parametrize("what", ROWS)
def test_refused_in_one_line(what, minis, new, tmp_path, read_all):
    build, expected = ROWS[what]
    source = tmp_path / "the source.safetensors"
    with open_tensors(minis["SDXL"]) as file:
        safetensors.torch.save_file(
            build({kind: read_all(path) for kind, path in minis.items()}), source, file.metadata
        )
    with pytest.raises(UserError, match=expected) as refusal:
        extract(source, new)
    assert "the source" in str(refusal.value) and "\n" not in str(refusal.value)
    assert not new.root.exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_is_converted_to_fp16(dtype, minis, new, tmp_path, read_all, caplog):
    """The conversion is exact, and updates of training are not lost to rounding."""
    source = tmp_path / "fp8.safetensors"
    wide = {key: value.to(dtype) if key.startswith(UNET) else value for key, value in read_all(minis["SDXL"]).items()}
    with open_tensors(minis["SDXL"]) as file:
        safetensors.torch.save_file(wide, source, file.metadata)
    extract(source, new)
    assert "is in fp8: the model was created in fp16" in caplog.text
    out = write_checkpoint(new, tmp_path / "out.safetensors")
    assert verify_checkpoint(out, new).n_changed == 0
    for key, value in read_all(out).items():
        assert torch.equal(value, wide[key].half() if key.startswith(UNET) else wide[key]), key


VAES = {
    "a VAE of other sizes": (lambda t: {**t, VAE + "decoder.extra.weight": torch.zeros(1)}, "does not fit"),
    "a LoRA": (lambda t: {"lora_unet_x.lora_down.weight": torch.zeros(4, 4)}, "is not a VAE"),
    "a VAE with NaN": (
        lambda t: {**t, VAE + "decoder.conv_in.bias": torch.full((8,), float("nan"))},
        "has NaN or infinite values",
    ),
    "a wider VAE": (lambda t: {**t, VAE + "decoder.conv_in.bias": torch.zeros(16)}, "has the shape"),
}


@pytest.mark.parametrize("what", VAES)
def test_a_bad_vae_is_refused(what, minis, new, tmp_path, read_all):
    change, expected = VAES[what]
    vae = tmp_path / "the VAE.safetensors"
    own = {key: value for key, value in read_all(minis["SDXL"]).items() if key.startswith(VAE)}
    safetensors.torch.save_file(change(own), vae)
    with pytest.raises(UserError, match=expected) as refusal:
        extract(minis["SDXL"], new, vae=vae)
    assert "\n" not in str(refusal.value) and not new.root.exists()


def test_a_vae_completes_a_checkpoint_that_has_half_of_one(minis, new, tmp_path, read_all):
    tensors = read_all(minis["SDXL"])
    half, vae = tmp_path / "half.safetensors", tmp_path / "vae.safetensors"
    with open_tensors(minis["SDXL"]) as file:
        kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(VAE + "encoder")}
        safetensors.torch.save_file(kept, half, file.metadata)
    own = {key.removeprefix(VAE): tensor for key, tensor in tensors.items() if key.startswith(VAE)}
    safetensors.torch.save_file(own, vae)
    extract(half, new, vae=vae)
    written = read_all(write_checkpoint(new, tmp_path / "out.safetensors"))
    assert all(torch.equal(written[key], tensor) for key, tensor in tensors.items())


def test_links_and_non_ascii_names(minis, new, tmp_path, assert_same):
    """A file that is a link in a linked folder, as when large models are on another disk."""
    real, linked = tmp_path / "另一个 disk", tmp_path / "链接 to it"
    real.mkdir()
    shutil.copy(minis["SDXL"], real / "模型 один é.safetensors")
    try:
        linked.symlink_to(real, target_is_directory=True)
        (linked / "也是 it.safetensors").symlink_to(real / "模型 один é.safetensors")
    except OSError:
        pytest.skip("no links can be made here")
    extract(linked / "也是 it.safetensors", new)
    assert_same(write_checkpoint(new, tmp_path / "出来 out.safetensors"), minis["SDXL"])
    folder = tmp_path / "文件夹 link"
    folder.symlink_to(new.working, target_is_directory=True)
    assert extract(folder, new.__class__(new.folders, "又 one")).model_type == "SDXL"
    (real / "模型 один é.safetensors").unlink()
    with pytest.raises(UserError, match=r"也是 it.safetensors does not exist"):
        extract(linked / "也是 it.safetensors", new)


def test_a_full_disk_is_reported_before_the_file_is_written(minis, new, tmp_path, monkeypatch):
    """Counts the space for converted values, and for the file that is written."""
    extract(minis["SDXL"], new)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2_000_000))
    with pytest.raises(UserError, match=r"Writing out.safetensors needs .* MB .* 2 MB is free"):
        write_checkpoint(new, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(UserError, match=r"Creating .* needs"):
        extract(minis["SDXL"], new.__class__(new.folders, "another"), dtype=torch.float32)
