"""Create refuses what it can't use with one line that says what the file is, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.extract import extract
from dreambooth.errors import UserError
from dreambooth.models.sd.keys import CONFIG_KEY
from dreambooth.settings import Folders, ModelFolder

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
CONV_IN = UNET + "input_blocks.0.0.weight"


def raw(content: bytes):
    return lambda path, mini: path.write_bytes(content)


def header(value: object):
    text = json.dumps(value).encode()
    return raw(struct.pack("<Q", len(text)) + text + bytes(64))


def of_keys(*keys: str):
    return lambda path, mini: safetensors.torch.save_file({key: torch.zeros(4, 4) for key in keys}, path)


def changed(change):
    """The embedded checkpoint with modified tensors."""

    def make(path: Path, mini: Path) -> None:
        with safetensors.safe_open(mini, "pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        change(tensors)
        safetensors.torch.save_file(tensors, path, metadata)

    return make


def without(*prefixes: str):
    return changed(lambda t: [t.pop(key) for key in list(t) if key.startswith(prefixes)])


def with_value(key: str, value: float):
    def change(tensors):
        tensors[key].view(-1)[3] = value

    return changed(change)


def describing_itself(**facts: object):
    """The embedded checkpoint with other config values in its metadata."""

    def make(path: Path, mini: Path) -> None:
        metadata = {CONFIG_KEY: json.dumps(facts)}
        safetensors.torch.save_file(safetensors.torch.load_file(mini), path, metadata)

    return make


def with_shape(key: str, *shape: int):
    return changed(lambda t: t.update({key: torch.zeros(shape)}))


def a_zip(path: Path, mini: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.safetensors", b"x" * 100)


def truncated(path: Path, mini: Path) -> None:
    path.write_bytes(mini.read_bytes()[: mini.stat().st_size // 2])


def a_zip_packed_again(path: Path, mini: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000))


def with_trailing_bytes(path: Path, mini: Path) -> None:
    path.write_bytes(mini.read_bytes() + b"more")


def a_folder(**configs: dict | list):
    def make(path: Path, mini: Path) -> None:
        for name, config in configs.items():
            (path / name).mkdir(parents=True)
            (path / name / "config.json").write_text(json.dumps(config))
        path.mkdir(exist_ok=True)
        if configs:
            (path / "model_index.json").write_text("{}")

    return make


ROWS = {
    "missing": (lambda path, mini: None, "does not exist"),
    "empty": (raw(b""), "is empty"),
    "truncated": (truncated, "is truncated: .* of .* bytes"),
    "trailing bytes": (with_trailing_bytes, "is damaged: 4 bytes follow"),
    "cut in the header": (raw(struct.pack("<Q", 5000) + b'{"a":'), "ends within its header"),
    "absurd header": (raw(struct.pack("<Q", 1 << 60) + b'{"a":' + bytes(99)), "broken header"),
    "header that is no JSON": (raw(struct.pack("<Q", 20) + b"{not json at all    " + bytes(9)), "broken .* header"),
    "offsets that overlap": (
        header({n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in "ab"}),
        "overlap or leave gaps",
    ),
    "shape that lies": (header({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}), "broken .* header"),
    "unknown dtype": (header({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 16]}}), "dtype F4"),
    "no tensors": (lambda path, mini: safetensors.torch.save_file({}, path), "has no tensors"),
    "web page": (raw(b"<!DOCTYPE html><html><body>Sign in to continue</body></html>"), "is a web page"),
    "web page after comments": (raw(b"\xef\xbb\xbf<!-- gate 7 --><html>"), "is a web page"),
    "server's complaint": (raw(b'{"error": "Access to this model is gated"}'), "is JSON text"),
    "zip": (a_zip, "is a zip archive"),
    "zip packed again": (a_zip_packed_again, "was recompressed"),
    "name that is no text": (
        header({"\ud800": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}),
        "broken .* hea",
    ),
    "git lfs pointer": (raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "Git LFS pointer"),
    "gguf": (raw(b"GGUF" + bytes(60)), "GGUF"),
    "picture": (raw(b"\x89PNG\r\n\x1a\n" + bytes(60)), "is an image"),
    "text": (raw(b"these are my notes about the model, nothing else"), "damaged, or of an unknown file format"),
    "LoRA": (of_keys("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), "is a LoRA"),
    "LoHa": (of_keys("lora_unet_x.hada_w1_a"), "is a LoRA"),
    "diffusers LoRA": (of_keys("unet.down_blocks.0.attentions.0.to_q.lora_A.weight"), "is a LoRA"),
    "LoRA of whole weights": (of_keys("lora_unet_x.diff"), "is a LoRA"),
    "IP-Adapter": (of_keys("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "an IP-Adapter"),
    "motion module": (of_keys("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"), "a motion module"),
    "textual inversion": (of_keys("emb_params"), "textual inversion"),
    "VAE": (of_keys("encoder.conv_in.weight", "decoder.conv_in.weight"), "is a VAE, not"),
    "VAE of a checkpoint": (without(UNET, TEXT), "is a VAE, not"),
    "text encoder": (of_keys("text_model.embeddings.token_embedding.weight"), "is a text encoder, not"),
    "unet alone": (of_keys("diffusion_model.input_blocks.0.0.weight"), "is a UNet without VAE"),
    "unet of a folder": (of_keys("conv_in.weight", "time_embedding.linear_1.weight"), "one component of a diffusers"),
    "upscaler": (of_keys("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"), "is an upscaler"),
    "ControlNet": (of_keys("control_model.time_embed.0.weight"), "is a ControlNet"),
    "SDXL": (of_keys("conditioner.embedders.1.model.ln_final.weight", CONV_IN), "XL checkpoint without VAE"),
    "SDXL refiner": (of_keys("conditioner.embedders.0.model.ln_final.weight"), "an SDXL refiner"),
    "SD2": (of_keys("cond_stage_model.model.ln_final.weight", CONV_IN), "Stable Diffusion 2.x .* without VAE"),
    "SD3": (of_keys("model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight"), "Stable Diffusion 3"),
    "FLUX": (of_keys("double_blocks.0.img_attn.proj.weight"), "FLUX"),
    "instruct-pix2pix": (with_shape(CONV_IN, 32, 8, 3, 3), "an instruct-pix2pix checkpoint"),
    "no VAE": (without(VAE), r"without VAE \(first_stage_model"),
    "no text encoder": (without(TEXT), "without text encoder"),
    "a layer missing": (without(UNET + "middle_block.2.out_layers"), "is incomplete: 4 tensors missing"),
    "a size missing": (without(VAE + "post_quant_conv"), "not a complete Stable Diffusion 1.x checkpoint"),
    "a wrong shape": (with_shape(UNET + "out.2.bias", 5), r"out.2.bias has the shape \(5,\)"),
    "a scalar for a weight": (
        with_shape(UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
        "not a complete",
    ),
    "quantized": (
        changed(lambda t: t.update({UNET + "out.2.weight": t[UNET + "out.2.weight"].char()})),
        "is quantized",
    ),
    "heads that don't divide": (
        describing_itself(text_encoder={"num_attention_heads": 7}),
        "invalid sizes",
    ),
    "absurd picture size": (describing_itself(sample_size=100_000), "sample_size 100000 is outside"),
    "unknown prediction": (describing_itself(prediction_type="flow"), "prediction_type flow is not"),
    "NaN": (with_value(UNET + "out.2.weight", float("nan")), "out.2.weight has NaN"),
    "infinity": (with_value(VAE + "decoder.conv_in.bias", float("inf")), "decoder.conv_in.bias has NaN or infinite"),
    "folder of images": (a_folder(), "a folder without model_index.json"),
    "folder with a list for a config": (a_folder(unet=[], vae={}, text_encoder={}), "damaged config.json files"),
    "folder without VAE": (a_folder(unet={}, text_encoder={}), "has no vae"),
    "SDXL folder": (a_folder(unet={"in_channels": 4}, vae={}, text_encoder={}, text_encoder_2={}), "SDXL"),
    "SD2 folder": (
        a_folder(unet={"in_channels": 4, "cross_attention_dim": 1024}, vae={}, text_encoder={}),
        "damaged config.json files",
    ),
    "folder without weights": (
        a_folder(
            unet={"in_channels": 4, "block_out_channels": [8], "layers_per_block": 1}
            | {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
            vae={"block_out_channels": [8], "layers_per_block": 1},
            text_encoder={},
        ),
        "has no weights",
    ),
}


@pytest.mark.parametrize("what", ROWS)
def test_refused_in_one_line(what, tmp_path, mini_checkpoint):
    make, expected = ROWS[what]
    source = tmp_path / "the source.safetensors"
    make(source, mini_checkpoint)
    model = ModelFolder(Folders(tmp_path / "models"), "new")
    with pytest.raises(UserError, match=expected) as refusal:
        extract(source, model)
    assert "the source" in str(refusal.value) and "\n" not in str(refusal.value)
    assert not model.root.exists()


def test_an_existing_model_stays_when_a_new_source_is_refused(mini, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"")
    before = {path: path.read_bytes() for path in mini.root.rglob("*.safetensors")}
    with pytest.raises(UserError):
        extract(bad, mini)
    assert {path: path.read_bytes() for path in mini.root.rglob("*.safetensors")} == before


def test_a_full_disk_is_reported_before_anything_is_written(mini_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    model = ModelFolder(Folders(tmp_path / "models"), "new")
    with pytest.raises(UserError, match=r"Creating new needs .* MB .* 1 kB is free"):
        extract(mini_checkpoint, model)
    assert not model.root.exists()
