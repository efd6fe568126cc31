"""Files of Z-Image: what is created from them is written again bit for bit; others are named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from dreambooth.cli import main
from dreambooth.models.zimage.zimage import ZImage
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from tests.flow_models.files import create, in_8_bits, tensors_of
from tests.flow_models.source_checks import (
    check_dequantized,
    check_diffusers_folder,
    check_distilled,
    check_named,
    check_refused,
    check_unchanged_checkpoint,
    narrow_text_encoder,
)


@pytest.mark.parametrize("form", ["bare", "prefixed", "whole"])
def test_checkpoint_without_training_is_the_file_that_it_was_created_from(tmp_path, family, form, capsys):
    check_unchanged_checkpoint(tmp_path, family, form, capsys)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_diffusers_names_are_written_as_the_original_ones(tmp_path, family, form):
    assert check_diffusers_folder(tmp_path, family, form)["shift"] == (6.0 if form == "folder" else 3.0)


@pytest.mark.parametrize("kind", ["plain", "scale_weight", "float8_e4m3fn", "int8"])
def test_weights_in_8_bits_are_dequantized(tmp_path, family, kind):
    check_dequantized(tmp_path, family, kind, ".attention.", "layers.1.attention.qkv.weight")


def test_turbo_is_reported_and_sampled_as_it_is_meant(tmp_path, family, concept):
    warning = check_distilled(tmp_path, family, concept, "z_image_turbo_bf16.safetensors", "Z-Image-Turbo", steps=8)
    assert "Z-Image-De-Turbo instead" in warning
    other = family.write(tmp_path, name="z_image_de_turbo_v1.safetensors")
    assert create(tmp_path, other, "other").load().info.source_warnings == ""


def test_settings_of_stable_diffusion_are_refused_each_with_its_reason(model, concept):
    check_refused(model, concept, "Z-Image", multires_noise_iterations=6, debiased_estimation=True, use_dream=True)
    settings = model.load().settings
    assert (settings.resolution, settings.timestep_sampling, settings.timestep_shift) == (1024, "logit_normal", 2.0)
    assert (settings.lora_unet_rank, settings.scheduler, settings.stop_text_encoder) == (32, "EulerDiscrete", 0.0)


def test_wrong_and_missing_files_are_named(tmp_path, files, monkeypatch, capsys):
    folder = tmp_path / "models" / "text_encoder"
    folder.mkdir(parents=True)
    shutil.copyfile(files.text_encoder, folder / "qwen_3_4b.safetensors")
    narrow = narrow_text_encoder(tmp_path / "narrow.safetensors", files)
    transformer = tensors_of(files.transformer)
    write_tensors(tmp_path / "nunchaku.safetensors", {**transformer, "layers.0.attention.qkv.wscales": torch.ones(2)})
    rotated = {"format": "int8_tensorwise", "convrot": True}
    quant = torch.tensor(list(json.dumps(rotated).encode()), dtype=torch.uint8)
    scaled = in_8_bits(transformer, "int8", ".attention.") | {"layers.0.attention.qkv.comfy_quant": quant}
    write_tensors(tmp_path / "rotated.safetensors", scaled)
    write_tensors(tmp_path / "lumina.safetensors", {k: v for k, v in transformer.items() if "pad_token" not in k})
    (tmp_path / "z.gguf").write_bytes(b"GGUF" + bytes(64))
    own = files.options
    cases = [
        (files.transformer, own[2:], "Found for the text encoder (Qwen3 4B): text_encoder/qwen_3_4b.safetensors"),
        (files.transformer, own[:2], "a Z-Image checkpoint without VAE (FLUX.1) (vae.*): select a VAE too"),
        (files.transformer, ["--text-encoder", str(narrow), *own[2:]],
         "expects text embeddings of width 16, its text encoder has width 8: use the text encoder Qwen3 4B"),
        (files.text_encoder, [], "is the text encoder (Qwen3 4B) of Z-Image or FLUX.2 klein 4B, or the"),
        (files.vae, [], "is the VAE (FLUX.1) of Z-Image"),
        (tmp_path / "nunchaku.safetensors", own, "quantized by nunchaku"),
        (tmp_path / "rotated.safetensors", own, "in a format that can't be read (int8_tensorwise)"),
        (tmp_path / "lumina.safetensors", own, "a Lumina model, which can't be trained here"),
        (tmp_path / "z.gguf", own, "is a GGUF (quantized) file"),
    ]  # fmt: skip
    check_named(tmp_path, cases, capsys)
    monkeypatch.setattr(ZImage, "required_libraries", {"diffusers": ">=99"})
    assert (
        main(["create", "z", "--models-dir", str(tmp_path / "models"), "--source", str(files.transformer), *own]) == 1
    )
    assert "Z-Image needs diffusers>=99" in capsys.readouterr().err
    assert not list((tmp_path / "models").rglob("z"))


def test_norm_groups_of_a_vae_are_those_that_its_file_or_folder_states(tmp_path, family, capsys):
    whole, models = tensors_of(family.whole_file(tmp_path / "whole.safetensors")), ["--models-dir", str(tmp_path)]
    cases = [
        ('{"vae": {"norm_num_groups": 5}}', "norms of 5 groups"),
        ('{"vae": {"norm_num_groups": 0}}', "has an invalid value: 0 is not positive"),
        ('{"shift": "steep"}', "metadata dreambooth.zimage of a file"),
        ('{"vae": 3', "has an invalid value"),
    ]
    for text, expected in cases:
        write_tensors(tmp_path / "other.safetensors", whole, {"dreambooth.zimage": text})
        assert main(["create", "z", *models, "--source", str(tmp_path / "other.safetensors")]) == 1
        assert expected in capsys.readouterr().err
    config = '{"vae": {"norm_num_groups": 8}, "shift": 2.5}'
    write_tensors(tmp_path / "own.safetensors", whole, {"dreambooth.zimage": config})
    assert main(["create", "z", *models, "--source", str(tmp_path / "own.safetensors"), "--copy-source"]) == 0
    folder = ModelFolder(Folders(tmp_path), "z").working
    assert main(["create", "again", *models, "--source", str(folder)]) == 0
    for working in (folder, ModelFolder(Folders(tmp_path), "again").working):
        assert json.loads((working / "vae" / "config.json").read_text())["norm_num_groups"] == 8
        assert json.loads((working / "scheduler" / "scheduler_config.json").read_text())["shift"] == 2.5
