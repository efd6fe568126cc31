"""Files and LoRAs of Chroma: what is created from them is written again bit for bit; others are named."""

from __future__ import annotations

import pytest
import torch

from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.tensor_files import write_tensors
from tests.flow_models.adapter_checks import check_same_deltas
from tests.flow_models.files import random_lora, tensors_of
from tests.flow_models.source_checks import (
    check_dequantized,
    check_diffusers_folder,
    check_distilled,
    check_named,
    check_refused,
    check_unchanged_checkpoint,
)
from tests.flux.test_flux_adapters import native_adapters


@pytest.mark.parametrize("form", ["bare", "whole"])
def test_checkpoint_without_training_is_the_file_that_it_was_created_from(tmp_path, family, form, capsys):
    check_unchanged_checkpoint(tmp_path, family, form, capsys)


def test_diffusers_names_are_written_as_the_original_ones(tmp_path, family):
    scheduler = check_diffusers_folder(tmp_path, family)
    assert scheduler["shift"] == 6.0 and "_embedded_guidance" not in scheduler


def test_weights_in_8_bits_are_dequantized(tmp_path, family):
    check_dequantized(tmp_path, family, "float8_e4m3fn", "_attn.", "double_blocks.1.img_attn.qkv.weight")


def test_flash_is_reported_and_sampled_as_it_is_meant(tmp_path, family, concept):
    warning = check_distilled(tmp_path, family, concept, "Chroma1-HD-Flash.safetensors", "Chroma1-Flash", steps=8)
    assert "Chroma1-HD or Chroma1-Base instead" in warning


def test_settings_of_stable_diffusion_are_refused_each_with_its_reason(model, concept):
    check_refused(model, concept, "Chroma", multires_noise_iterations=6, debiased_estimation=True, use_dream=True)
    settings = model.load().settings
    assert (settings.resolution, settings.timestep_sampling, settings.timestep_shift) == (1024, "sigmoid", 1.0)
    assert settings.lora_unet_rank == 16 and not settings.resolution_shift


def test_wrong_and_missing_files_are_named(tmp_path, files, capsys):
    narrow, t5 = tmp_path / "narrow.safetensors", tensors_of(files.text_encoder)
    write_tensors(narrow, {k: v[:, :8] if k == "shared.weight" else v for k, v in t5.items()})
    radiance = {"nerf_image_embedder.embedder.0.weight": torch.zeros(8, 8), "distilled_guidance_layer.in_proj.weight":
                torch.zeros(8, 8)}  # fmt: skip
    write_tensors(tmp_path / "radiance.safetensors", radiance)
    cases = [
        (files.transformer, files.options[2:], "a Chroma checkpoint without text encoder (T5 XXL)"),
        (files.transformer, ["--text-encoder", str(narrow), *files.options[2:]], "has width 8: use T5 v1.1 XXL"),
        (tmp_path / "radiance.safetensors", files.options, "a Chroma Radiance model"),
    ]
    check_named(tmp_path, cases, capsys)


def test_loras_with_the_original_names_change_the_same_weights(tmp_path, model):
    """The modules are named as FLUX.1's: only metadata tell such files apart."""
    own = random_lora(tmp_path / "own.safetensors", model)
    adapters = {name.removeprefix("transformer_"): adapter for name, adapter in read_lora(own).weights.items()}
    weights = {f"lora_unet_{name}".replace(".", "_"): adapter for name, adapter in native_adapters(adapters).items()}
    check_same_deltas(model, own, tmp_path / "other.safetensors", weights, "FLUX.1 or Chroma", atol=1e-5)
