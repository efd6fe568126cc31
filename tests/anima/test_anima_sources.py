"""Files of Anima: what is created from them is written again bit for bit; others are named."""

from __future__ import annotations

import json

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.modules import load_modules
from dreambooth.cli import main
from dreambooth.errors import UserError
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from tests.anima import files as anima
from tests.zimage.files import QUICK, create, is_same, tensors_of


@pytest.mark.parametrize("form", ["published", "bare", "prefixed", "whole"])
def test_checkpoint_without_training_is_the_file_that_it_was_created_from(tmp_path, capsys, form):
    files = anima.write(tmp_path, {"bare": "", "prefixed": anima.PREFIX}.get(form, anima.NET))
    source, options = files.transformer, ["--text-encoder", str(files.text_encoder), "--vae", str(files.vae)]
    if form == "whole":
        source, options = anima.whole_file(tmp_path / "whole.safetensors"), []
    models = ["--models-dir", str(tmp_path / "models")]
    assert main(["create", "a", *models, "--source", str(source), *options]) == 0
    assert main(["generate-ckpt", "a", *models, "--out", str(tmp_path / "out.safetensors")]) == 0
    assert "verified" in capsys.readouterr().out
    assert is_same(tensors_of(tmp_path / "out.safetensors"), tensors_of(source))
    modules = load_modules(ModelFolder(Folders(tmp_path / "models"), "a").working)
    for name, module in anima.make_modules().items():
        loaded = modules.parts[name].state_dict()
        assert loaded.keys() == module.state_dict().keys()
        assert all(torch.equal(loaded[key], value.half().float()) for key, value in module.state_dict().items())
    frequencies = anima.make_modules()["text_encoder"].get_buffer("rotary_emb.inv_freq")
    assert torch.equal(modules.parts["text_encoder"].rotary_emb.inv_freq, frequencies), "files don't have it"


def test_diffusers_folder_is_written_with_the_original_names(tmp_path, files):
    """With the files that other programs need of a folder."""
    copied = create(tmp_path, files, "copied", copy_source=True).working
    folder = copied.rename(tmp_path / "folder")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"shift": 6.0}))
    actions.create(Folders(tmp_path / "models"), "a", folder)
    model = ModelFolder(Folders(tmp_path / "models"), "a")
    made, expected = tensors_of(actions.generate_checkpoint(model)[0]), anima.native_transformer()
    assert made.keys() == {anima.PREFIX + key for key in expected}
    assert all(torch.equal(made[anima.PREFIX + key], value) for key, value in expected.items())
    assert json.loads((model.working / "scheduler" / "scheduler_config.json").read_text())["shift"] == 6.0


def test_settings_of_stable_diffusion_are_refused_each_with_its_reason(model, concept):
    values = {
        "min_snr_gamma": 5.0, "offset_noise": 0.1, "clip_skip": 2, "zero_terminal_snr": True, "scheduler": "DDIM",
        "stop_text_encoder": 1.0, "use_lora_extended": True, "attention": "sliced", "weighted_captions": True,
        "max_token_length": 225,
    }  # fmt: skip
    with pytest.raises(UserError) as refused:
        preflight(model, actions.configure(model, {**QUICK, **values}, [concept]))
    assert {line.split(" ")[0] for line in refused.value.problems} == values.keys()
    assert all("Anima can't have" in line for line in refused.value.problems)
    settings = model.load().settings
    assert (settings.resolution, settings.timestep_sampling, settings.timestep_shift) == (1024, "sigmoid", 1.0)
    assert (settings.lora_unet_rank, settings.scheduler, settings.stop_text_encoder) == (8, "EulerDiscrete", 0.0)


def test_wrong_missing_and_distilled_files_are_named(tmp_path, files, capsys):
    text = tensors_of(files.text_encoder)
    narrow = {key: value[:, :8] if key == "model.embed_tokens.weight" else value for key, value in text.items()}
    write_tensors(tmp_path / "narrow.safetensors", narrow)
    cosmos = {k: v for k, v in tensors_of(files.transformer).items() if "llm_adapter" not in k}
    write_tensors(tmp_path / "cosmos.safetensors", cosmos)
    own = ["--text-encoder", str(files.text_encoder), "--vae", str(files.vae)]
    cases = [
        (files.transformer, own[2:], "an Anima checkpoint without text encoder (Qwen3 0.6B)"),
        (files.transformer, [], "a transformer without text encoder (Qwen3 0.6B) and VAE (Qwen-Image) (Anima)"),
        (files.transformer, ["--text-encoder", str(files.vae)], "is no text encoder of Anima (it is the VAE"),
        (files.transformer, own[:2], "an Anima checkpoint without VAE (Qwen-Image) (vae.*): select a VAE too"),
        (files.transformer, ["--text-encoder", str(tmp_path / "narrow.safetensors"), *own[2:]],
         "expects hidden states of width 16, its text encoder has width 8: use the text encoder Qwen3 0.6B"),
        (files.vae, [], "is the VAE (Qwen-Image) of Anima"),
        (tmp_path / "cosmos.safetensors", own, "a Cosmos model, which can't be trained here"),
    ]  # fmt: skip
    for source, arguments, expected in cases:
        assert main(["create", "a", "--models-dir", str(tmp_path / "models"), "--source", str(source), *arguments]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert expected in line, line
    assert not list((tmp_path / "models").rglob("a"))
    turbo = create(tmp_path, anima.write(tmp_path, name="anima_turbo_v1.safetensors"), "turbo").load().info
    assert turbo.recognized == "distilled Anima, by its tensors and its name"
    assert "Train on Anima instead" in turbo.source_warnings
