"""Files of Z-Image: what is created from them is written again bit for bit; others are named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.modules import load_modules
from dreambooth.cli import main
from dreambooth.errors import UserError
from dreambooth.models.zimage.zimage import ZImage
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from tests.zimage import files as zimage
from tests.zimage.files import QUICK, create, is_same, tensors_of


@pytest.mark.parametrize("form", ["bare", "prefixed", "whole"])
def test_checkpoint_without_training_is_the_file_that_it_was_created_from(tmp_path, capsys, form):
    files = zimage.write(tmp_path, "model.diffusion_model." if form == "prefixed" else "")
    source, options = files.transformer, ["--text-encoder", str(files.text_encoder), "--vae", str(files.vae)]
    if form == "whole":
        source, options = zimage.whole_file(tmp_path / "whole.safetensors"), []
    models = ["--models-dir", str(tmp_path / "models")]
    assert main(["create", "z", *models, "--source", str(source), *options]) == 0
    assert main(["generate-ckpt", "z", *models, "--out", str(tmp_path / "out.safetensors")]) == 0
    assert "verified" in capsys.readouterr().out
    assert is_same(tensors_of(tmp_path / "out.safetensors"), tensors_of(source))
    modules = load_modules(ModelFolder(Folders(tmp_path / "models"), "z").working)
    for name, module in zimage.make_modules().items():
        loaded = modules.parts[name].state_dict()
        assert loaded.keys() == module.state_dict().keys()
        assert all(torch.equal(loaded[key], value.half().float()) for key, value in module.state_dict().items())
    frequencies = zimage.make_modules()["text_encoder"].get_buffer("rotary_emb.inv_freq")
    assert torch.equal(modules.parts["text_encoder"].rotary_emb.inv_freq, frequencies), "files don't have it"


@pytest.mark.parametrize("form", ["folder", "file"])
def test_diffusers_names_are_written_as_the_original_ones(tmp_path, files, form):
    """The transformer of a diffusers folder, or its weights as one file; the VAE of that folder."""
    copied = create(tmp_path, files, "copied", copy_source=True).working
    if form == "file":
        weights = copied / "transformer" / "diffusion_pytorch_model.safetensors"
        source = zimage.Files(weights, copied / "text_encoder", copied / "vae")
        model = create(tmp_path, source)
    else:
        shutil.copytree(copied, tmp_path / "folder")
        scheduler = tmp_path / "folder" / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps({"shift": 6.0}))
        actions.create(Folders(tmp_path / "models"), "z", tmp_path / "folder")
        model = ModelFolder(Folders(tmp_path / "models"), "z")
    made, expected = tensors_of(actions.generate_checkpoint(model)[0]), tensors_of(files.transformer)
    expected.pop("norm_final.weight")
    assert made.keys() == {f"model.diffusion_model.{key}" for key in expected}
    assert all(torch.equal(made[f"model.diffusion_model.{key}"], value) for key, value in expected.items())
    scheduler = json.loads((model.working / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == (6.0 if form == "folder" else 3.0)


def _scaled(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Matrices of the blocks in 8 bits: kohya's and ComfyUI's scaled fp8, ComfyUI's int8."""
    made = dict(tensors)
    for key in [key for key in tensors if ".attention." in key and tensors[key].dim() == 2]:
        weight, module = tensors[key].float(), key.removesuffix(".weight")
        scale = weight.abs().amax(dim=1, keepdim=True) / 100
        if kind == "scale_weight":
            made[key], made[f"{module}.scale_weight"] = (weight / scale).to(torch.float8_e4m3fn), scale
            made["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
            continue
        is_int = kind == "int8"
        scale = scale if is_int else scale.max()
        stored = weight / scale
        made[key] = stored.round().to(torch.int8) if is_int else stored.to(torch.float8_e4m3fn)
        made[f"{module}.weight_scale"] = scale
        text = json.dumps({"format": "int8_tensorwise" if is_int else kind})
        made[f"{module}.comfy_quant"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return made


@pytest.mark.parametrize("kind", ["plain", "scale_weight", "float8_e4m3fn", "int8"])
def test_weights_in_8_bits_are_dequantized(tmp_path, files, concept, kind, capsys):
    before = tensors_of(files.transformer)
    if kind == "plain":
        stored = {k: v.to(torch.float8_e4m3fn) if v.dim() == 2 else v for k, v in before.items()}
    else:
        stored = _scaled(before, kind)
        text = _scaled({f"a.attention.{k}": v for k, v in tensors_of(files.text_encoder).items()}, kind)
        write_tensors(files.text_encoder, {k.removeprefix("a.attention."): v for k, v in text.items()})
    write_tensors(files.transformer, stored)
    model = create(tmp_path, files)
    made = tensors_of(actions.generate_checkpoint(model)[0])
    assert made.keys() == before.keys()
    changed = {key for key, value in made.items() if not torch.equal(value.half(), before[key])}
    assert "layers.1.attention.qkv.weight" in changed
    for key in changed:
        assert made[key].dtype == (torch.float16 if kind == "plain" else torch.bfloat16)
        assert torch.allclose(made[key].float(), before[key].float(), atol=0.07 * before[key].abs().max().item())
    name = "embed_tokens.weight"
    embedding = load_modules(model.working, denoiser=False, vae=False).text_encoders["text_encoder"].get_parameter(name)
    assert torch.allclose(embedding, zimage.make_modules()["text_encoder"].get_parameter(name), atol=0.3)


def test_turbo_is_reported_and_sampled_as_it_is_meant(tmp_path, concept):
    files = zimage.write(tmp_path, name="z_image_turbo_bf16.safetensors")
    model = create(tmp_path, files)
    info = model.load().info
    assert info.recognized == "Z-Image-Turbo, by its tensors and its name"
    settings = {**QUICK, "max_train_steps": 1}
    config = actions.configure(model, settings, [Concept(instance_data_dir=concept.instance_data_dir)])
    (warning,) = (line for line in preflight(model, config).warnings if "distilled" in line)
    assert "The name z_image_turbo_bf16.safetensors says" in warning and "Z-Image-De-Turbo instead" in warning
    actions.train(model, config)
    (preview,) = model.samples.glob("*.png")
    parameters = Image.open(preview).info["parameters"]
    assert "Steps: 8" in parameters and "CFG scale: 1," in parameters
    other = zimage.write(tmp_path, name="z_image_de_turbo_v1.safetensors")
    assert create(tmp_path, other, "other").load().info.source_warnings == ""


def test_settings_of_stable_diffusion_are_refused_each_with_its_reason(model, concept):
    values = {
        "min_snr_gamma": 5.0, "offset_noise": 0.1, "multires_noise_iterations": 6, "clip_skip": 2,
        "zero_terminal_snr": True, "debiased_estimation": True, "use_dream": True, "scheduler": "DDIM",
        "stop_text_encoder": 1.0, "use_lora_extended": True, "attention": "sliced", "weighted_captions": True,
        "max_token_length": 225,
    }  # fmt: skip
    with pytest.raises(UserError) as refused:
        preflight(model, actions.configure(model, {**QUICK, **values}, [concept]))
    assert {line.split(" ")[0] for line in refused.value.problems} == values.keys()
    assert all("Z-Image can't have" in line for line in refused.value.problems)
    settings = model.load().settings
    assert (settings.resolution, settings.timestep_sampling, settings.timestep_shift) == (1024, "logit_normal", 2.0)
    assert (settings.lora_unet_rank, settings.scheduler, settings.stop_text_encoder) == (32, "EulerDiscrete", 0.0)


def test_wrong_and_missing_files_are_named(tmp_path, files, monkeypatch, capsys):
    folder = tmp_path / "models" / "text_encoder"
    folder.mkdir(parents=True)
    shutil.copyfile(files.text_encoder, folder / "qwen_3_4b.safetensors")
    text = tensors_of(files.text_encoder)
    narrow = {key: value[:, :8] if key == "model.embed_tokens.weight" else value for key, value in text.items()}
    write_tensors(tmp_path / "narrow.safetensors", narrow)
    transformer = tensors_of(files.transformer)
    write_tensors(tmp_path / "nunchaku.safetensors", {**transformer, "layers.0.attention.qkv.wscales": torch.ones(2)})
    rotated = {"format": "int8_tensorwise", "convrot": True}
    quant = torch.tensor(list(json.dumps(rotated).encode()), dtype=torch.uint8)
    scaled = _scaled(transformer, "int8") | {"layers.0.attention.qkv.comfy_quant": quant}
    write_tensors(tmp_path / "rotated.safetensors", scaled)
    write_tensors(tmp_path / "lumina.safetensors", {k: v for k, v in transformer.items() if "pad_token" not in k})
    (tmp_path / "z.gguf").write_bytes(b"GGUF" + bytes(64))
    own = ["--text-encoder", str(files.text_encoder), "--vae", str(files.vae)]
    cases = [
        (files.transformer, own[2:], "Found for the text encoder (Qwen3 4B): text_encoder/qwen_3_4b.safetensors"),
        (files.transformer, own[:2], "a Z-Image checkpoint without VAE (FLUX.1) (vae.*): select a VAE too"),
        (files.transformer, ["--text-encoder", str(tmp_path / "narrow.safetensors"), *own[2:]],
         "expects text embeddings of width 16, its text encoder has width 8: use the text encoder Qwen3 4B"),
        (files.text_encoder, [], "is the text encoder (Qwen3 4B) of Z-Image: choose the file of its transformer"),
        (files.vae, [], "is the VAE (FLUX.1) of Z-Image"),
        (tmp_path / "nunchaku.safetensors", own, "quantized by nunchaku"),
        (tmp_path / "rotated.safetensors", own, "in a format that can't be read (int8_tensorwise)"),
        (tmp_path / "lumina.safetensors", own, "a Lumina model, which can't be trained here"),
        (tmp_path / "z.gguf", own, "is a GGUF (quantized) file"),
    ]  # fmt: skip
    for source, arguments, expected in cases:
        assert main(["create", "z", "--models-dir", str(tmp_path / "models"), "--source", str(source), *arguments]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert expected in line, line
    monkeypatch.setattr(ZImage, "required_libraries", {"diffusers": ">=99"})
    assert (
        main(["create", "z", "--models-dir", str(tmp_path / "models"), "--source", str(files.transformer), *own]) == 1
    )
    assert "Z-Image needs diffusers>=99" in capsys.readouterr().err
    assert not list((tmp_path / "models").rglob("z"))
