"""Files of Anima: what is created from them is written again bit for bit; others are named."""

from __future__ import annotations

import pytest

from dreambooth.tensor_files import write_tensors
from tests.flow_models.files import create, tensors_of
from tests.flow_models.source_checks import (
    check_diffusers_folder,
    check_named,
    check_refused,
    check_unchanged_checkpoint,
    narrow_text_encoder,
)


@pytest.mark.parametrize("form", ["published", "bare", "prefixed", "whole"])
def test_checkpoint_without_training_is_the_file_that_it_was_created_from(tmp_path, family, form, capsys):
    check_unchanged_checkpoint(tmp_path, family, form, capsys)


def test_diffusers_folder_is_written_with_the_original_names(tmp_path, family):
    """With the files that other programs need of a folder."""
    assert check_diffusers_folder(tmp_path, family)["shift"] == 6.0


def test_settings_of_stable_diffusion_are_refused_each_with_its_reason(model, concept):
    check_refused(model, concept, "Anima")
    settings = model.load().settings
    assert (settings.resolution, settings.timestep_sampling, settings.timestep_shift) == (1024, "sigmoid", 1.0)
    assert (settings.lora_unet_rank, settings.scheduler, settings.stop_text_encoder) == (8, "EulerDiscrete", 0.0)


def test_wrong_missing_and_distilled_files_are_named(tmp_path, family, files, capsys):
    narrow = narrow_text_encoder(tmp_path / "narrow.safetensors", files)
    cosmos = {k: v for k, v in tensors_of(files.transformer).items() if "llm_adapter" not in k}
    write_tensors(tmp_path / "cosmos.safetensors", cosmos)
    own = files.options
    cases = [
        (files.transformer, own[2:], "an Anima checkpoint without text encoder (Qwen3 0.6B)"),
        (files.transformer, [], "a transformer without text encoder (Qwen3 0.6B) and VAE (Qwen-Image) (Anima)"),
        (files.transformer, ["--text-encoder", str(files.vae)], "is no text encoder of Anima (it is the VAE"),
        (files.transformer, own[:2], "an Anima checkpoint without VAE (Qwen-Image) (vae.*): select a VAE too"),
        (files.transformer, ["--text-encoder", str(narrow), *own[2:]],
         "expects hidden states of width 16, its text encoder has width 8: use the text encoder Qwen3 0.6B"),
        (files.vae, [], "is the VAE (Qwen-Image) of Anima"),
        (tmp_path / "cosmos.safetensors", own, "a Cosmos model, which can't be trained here"),
    ]  # fmt: skip
    check_named(tmp_path, cases, capsys)
    turbo = create(tmp_path, family.write(tmp_path, name="anima_turbo_v1.safetensors"), "turbo").load().info
    assert turbo.recognized == "distilled Anima, by its tensors and its name"
    assert "Train on Anima instead" in turbo.source_warnings
