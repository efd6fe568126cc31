"""Files of FLUX.1: what is created from them is written again bit for bit; others are named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.runs.preflight import preflight
from dreambooth.tensor_files import write_tensors
from tests.flow_models.files import QUICK, create, tensors_of
from tests.flow_models.source_checks import (
    check_dequantized,
    check_diffusers_folder,
    check_distilled,
    check_named,
    check_refused,
    check_unchanged_checkpoint,
)


@pytest.mark.parametrize("form", ["bare", "prefixed", "whole"])
def test_checkpoint_without_training_is_the_file_that_it_was_created_from(tmp_path, family, form, capsys):
    check_unchanged_checkpoint(tmp_path, family, form, capsys)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_diffusers_names_are_written_as_the_original_ones(tmp_path, family, form):
    scheduler = check_diffusers_folder(tmp_path, family, form)
    assert scheduler["shift"] == (6.0 if form == "folder" else 3.0) and scheduler["use_dynamic_shifting"]
    assert scheduler["_embedded_guidance"] == 3.5


@pytest.mark.parametrize("kind", ["plain", "scale_weight"])
def test_weights_in_8_bits_are_dequantized(tmp_path, family, kind):
    check_dequantized(tmp_path, family, kind, "_attn.", "double_blocks.1.img_attn.qkv.weight")


def test_schnell_and_models_for_few_steps_are_reported_and_sampled_as_they_are_meant(tmp_path, family, concept):
    check_distilled(tmp_path, family, concept, "flux1-dev-turbo.safetensors", "distilled FLUX.1", steps=8)
    schnell = family.write(tmp_path, name="some.safetensors")
    tensors = {k: v for k, v in tensors_of(schnell.transformer).items() if not k.startswith("guidance_in.")}
    write_tensors(schnell.transformer, tensors)
    model = create(tmp_path, schnell, "schnell")
    assert model.load().info.recognized == "FLUX.1 schnell, by its tensors"
    config = actions.configure(model, QUICK | {"max_train_steps": 1}, [concept])
    (warning,) = (line for line in preflight(model, config).warnings if "distilled" in line)
    assert "Train on FLUX.1 dev or FLUX.1 Krea-dev instead" in warning
    actions.train(model, config)
    (preview,) = model.samples.glob("*.png")
    parameters = Image.open(preview).info["parameters"]
    assert "Steps: 2" in parameters and "CFG scale: 1, Seed" in parameters, "no guidance"
    scheduler = json.loads((model.working / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == 1.0 and not scheduler["use_dynamic_shifting"]
    shutil.copyfile(schnell.transformer, tmp_path / "OpenFLUX.1.safetensors")
    opened = create(tmp_path, schnell._replace(transformer=tmp_path / "OpenFLUX.1.safetensors"), "open")
    assert opened.load().info.source_warnings == ""


def test_krea_and_guidance_are_shown(tmp_path, family, concept):
    model = create(tmp_path, family.write(tmp_path, name="flux1-krea-dev.safetensors"))
    assert model.load().info.recognized == "FLUX.1 Krea-dev, by its tensors and its name"
    actions.train(model, actions.configure(model, QUICK | {"max_train_steps": 1}, [concept]))
    (preview,) = model.samples.glob("*.png")
    assert "CFG scale: 1, Distilled CFG Scale: 3.5, Seed" in Image.open(preview).info["parameters"]


def test_settings_of_stable_diffusion_are_refused_each_with_its_reason(model, concept):
    check_refused(model, concept, "FLUX.1", multires_noise_iterations=6, debiased_estimation=True, use_dream=True)
    settings = model.load().settings
    assert (settings.resolution, settings.timestep_sampling, settings.resolution_shift) == (1024, "sigmoid", True)
    assert (settings.lora_unet_rank, settings.scheduler, settings.stop_text_encoder) == (16, "EulerDiscrete", 0.0)


def test_wrong_and_missing_files_are_named(tmp_path, family, files, capsys):
    folder = tmp_path / "models" / "text_encoder"
    folder.mkdir(parents=True)
    shutil.copyfile(files.text_encoder_2, folder / "t5.safetensors")
    narrow, t5 = tmp_path / "narrow.safetensors", tensors_of(files.text_encoder_2)
    write_tensors(narrow, {k: v[:, :8] if k == "shared.weight" else v for k, v in t5.items()})
    transformer = tensors_of(files.transformer)
    for name, channels in (("fill", 384), ("depth", 128)):
        wide = torch.zeros(transformer["img_in.weight"].shape[0], channels)
        write_tensors(tmp_path / f"{name}.safetensors", {**transformer, "img_in.weight": wide})
    shutil.copyfile(files.transformer, tmp_path / "flux1-dev-kontext_fp8_scaled.safetensors")
    own = files.options
    clip, vae, second = own[:2], own[2:4], own[4:]
    cases = [
        (files.transformer, [*clip, *vae], "Found for the text encoder (T5 XXL): text_encoder/t5.safetensors"),
        (files.transformer, [*clip, *second], "a FLUX.1 checkpoint without VAE (FLUX.1) (vae.*): select a VAE too"),
        (files.transformer, [*clip, *vae, "--text-encoder", str(narrow)],
         "expects text embeddings of width 16, its text encoder (T5 XXL) has width 8: use T5 v1.1 XXL"),
        (files.transformer, [*clip, *clip, *vae], "are both the text encoder (CLIP-L) of FLUX.1"),
        (files.text_encoder_2, [], "is the text encoder (T5 XXL) of FLUX.1 or Chroma: choose the file of its"),
        (tmp_path / "fill.safetensors", own, "a FLUX.1 Fill model"),
        (tmp_path / "depth.safetensors", own, "a FLUX.1 Depth or Canny model"),
        (tmp_path / "flux1-dev-kontext_fp8_scaled.safetensors", own, "a FLUX.1 Kontext model, which edits images"),
    ]  # fmt: skip
    check_named(tmp_path, cases, capsys)
