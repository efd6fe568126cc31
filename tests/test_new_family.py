"""A family that the package does not know is registered by one object, and goes through everything that users do."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints.inspection import inspect
from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.cli import main
from dreambooth.errors import UserError
from dreambooth.jobs import Controls, Events
from dreambooth.models.process import RectifiedFlow
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Concept, CreateOptions, Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from dreambooth.training.session import Session
from tests.toy_family import PATCH, registered, write_files

QUICK = {
    "max_train_steps": 4, "train_batch_size": 2, "bucket_step": 16, "save_ckpt_after": True,
    "learning_rate": 1e-3, "lora_learning_rate": 1e-2, "lora_txt_learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def family():
    with registered() as family:
        yield family


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


@pytest.fixture
def model(tmp_path, files):
    options = CreateOptions(text_encoder=str(files.text_encoder), vae=str(files.vae))
    actions.create(Folders(tmp_path / "models"), "toy", files.denoiser, options)
    return ModelFolder(Folders(tmp_path / "models"), "toy")


@pytest.fixture
def concept(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (70, 64 + 16 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"a zwx toy {'seen ' * i}{i}.png")
    return Concept(instance_data_dir=str(folder), n_save_sample=1, save_infer_steps=2)


def _tensors(path):
    with open_tensors(path) as file:
        return {key: file.get(key) for key in file}


def _is_same(one, other):
    return list(one) == list(other) and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."], ids=["bare", "prefixed"])
def test_checkpoint_without_training_is_the_denoisers_file(tmp_path, capsys, prefix):
    files = write_files(tmp_path, prefix=prefix)
    models = ["--models-dir", str(tmp_path / "models")]
    create = ["create", "toy", *models, "--source", str(files.denoiser), "--text-encoder", str(files.text_encoder)]
    assert main([*create, "--vae", str(files.vae)]) == 0
    assert main(["generate-ckpt", "toy", *models, "--out", str(tmp_path / "out.safetensors")]) == 0
    assert _is_same(_tensors(tmp_path / "out.safetensors"), _tensors(files.denoiser))
    assert "verified" in capsys.readouterr().out
    modules = load_modules(ModelFolder(Folders(tmp_path / "models"), "toy").working)
    source = _tensors(files.denoiser)
    scale, shift = source[f"{prefix}layers.1.ada.weight"].float().chunk(2)
    assert torch.equal(modules.denoiser.blocks[1].modulation.weight, torch.cat([shift, scale]))
    assert torch.equal(
        modules.denoiser.blocks[0].attention.to_v.weight, source[f"{prefix}layers.0.attn.qkv.weight"][48:]
    )
    buffers = dict(modules.text_encoders["text_encoder"].named_buffers())
    assert torch.equal(buffers["decay"], 0.9 ** torch.arange(64.0)), "files don't have it"


@pytest.mark.parametrize("use_lora", [True, False], ids=["LoRA", "full"])
def test_trains_previews_and_exports(model, files, concept, use_lora):
    before = load_modules(model.working)
    settings = {**QUICK, "use_lora": use_lora, "stop_text_encoder": float(use_lora)}
    result = actions.train(model, actions.configure(model, settings, [concept]))
    (image,) = model.samples.glob("*.png")
    assert Image.open(image).size == (64, 64)
    (made,) = result.files
    if not use_lora:
        assert list(_tensors(made)) == list(_tensors(files.denoiser))
        changed = {
            key for key, value in _tensors(made).items() if not torch.equal(value, _tensors(files.denoiser)[key])
        }
        assert changed >= {f"model.diffusion_model.layers.{i}.attn.qkv.weight" for i in range(2)}
        return
    names = {*read_lora(made).names.values()}
    assert {"diffusion_model.blocks.0.attention.to_k", "diffusion_model.layers.1.mlp.0"} <= names, "as WebUIs read it"
    assert "text_encoder.layers.0" in names
    merged, _ = actions.generate_checkpoint(model, loras=[made], lora_weights=[0.5], precision="fp32")
    lora, after = read_lora(made), _tensors(merged)
    adapters = {lora.names.get(name, name): adapter for name, adapter in lora.weights.items()}
    attention = before.denoiser.blocks[0].attention
    parts = [
        adapters[f"diffusion_model.blocks.0.attention.{part}"].apply(getattr(attention, part).weight, 0.5)
        for part in ("to_q", "to_k", "to_v")
    ]
    key = "model.diffusion_model.layers.0.attn.qkv.weight"
    assert torch.equal(after[key], torch.cat(parts)) and not torch.equal(
        after[key], _tensors(files.denoiser)[key].float()
    )


@pytest.mark.parametrize("use_lora", [True, False], ids=["LoRA", "full"])
def test_resumed_run_is_bit_for_bit_the_undisturbed_one(tmp_path, files, concept, use_lora):
    weights = {}
    for name, steps in (("whole", [6]), ("resumed", [3, 6])):
        folders = Folders(tmp_path / name)
        options = CreateOptions(text_encoder=str(files.text_encoder), vae=str(files.vae))
        actions.create(folders, "toy", files.denoiser, options)
        model = ModelFolder(folders, "toy")
        for number, n in enumerate(steps):
            settings = {**QUICK, "use_lora": use_lora, "max_train_steps": n, "save_state_after": True}
            config = actions.configure(model, settings, [concept])
            result = actions.train(model, config, resume="latest" if number else "")
        weights[name] = _tensors(result.files[-1])
    assert _is_same(weights["whole"], weights["resumed"])


def test_loss_and_gradient_are_those_of_rectified_flow(model, files, concept):
    """One batch against the formula in float64, from the modules themselves: x_t = (1 - s) x + s noise, noise - x."""
    config = actions.configure(model, {**QUICK, "train_batch_size": 1}, [concept])
    context = preflight(model, config).context(Controls(), Events())
    session = Session(context)
    try:
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([250.0, 900.0])
        noisy = session.process.add_noise(latents, noise, t)
        prompts = session.prompts.batch(["a zwx toy 0", "a"])
        output = session.denoiser.predict(noisy, t, session.denoiser.prepare(prompts, []))
        assert torch.allclose(session.process.target(latents, noise, t), noise - latents)
        sigma = (t / 1000)[:, None, None, None]
        assert torch.allclose(noisy, (1 - sigma) * latents + sigma * noise, atol=1e-6)
        for i, prompt in enumerate(["a zwx toy 0", "a"]):  # alone, without padding
            own = session.prompts.batch([prompt])
            module = session.modules.denoiser.double()
            grid = torch.cartesian_prod(torch.arange(4), torch.arange(4))
            tokens = torch.nn.functional.pixel_unshuffle(noisy[i : i + 1].double(), PATCH).flatten(2).transpose(1, 2)
            mask = torch.ones(1, own["states"].shape[1], dtype=torch.bool)
            alone = module(tokens, 1 - t[i : i + 1].double() / 1000, grid, own["states"].double(), mask)
            alone = -torch.nn.functional.pixel_shuffle(alone.transpose(1, 2).unflatten(2, (4, 4)), PATCH)
            assert torch.allclose(output[i].double(), alone[0], atol=1e-5)
            module.float()
    finally:
        session.close()


def test_plan_check_and_inspect_speak_of_it(tmp_path, model, files, concept, capsys):
    models = ["--models-dir", str(tmp_path / "models")]
    config = actions.configure(model, {}, [concept])
    model.save(config)
    assert main(["plan", concept.instance_data_dir, "--model", "toy", *models, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["pictures"]) == 3 and all(side % 16 == 0 for row in report["pictures"] for side in row["bucket"])
    assert main(["inspect", str(files.denoiser), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["recognized"]) == ("checkpoint", "Toy Flow, by its tensors")
    assert found["odd"] == ["1 tensor of unknown modules (model.diffusion_model.unused)"]
    assert inspect(files.text_encoder).kind == "the text encoder (toy) of Toy Flow"
    assert inspect(files.vae).kind == "the VAE of Toy Flow"
    with pytest.raises(UserError) as refused:
        preflight(model, dataclasses.replace(config, settings=dataclasses.replace(
            config.settings, clip_skip=2, min_snr_gamma=5.0, scheduler="DDIM", stop_text_encoder=1.0)))  # fmt: skip
    lines = refused.value.problems
    assert [line.split(" ")[0] for line in lines] == ["min_snr_gamma", "scheduler", "clip_skip", "stop_text_encoder"]


def test_difference_of_two_denoiser_files_is_extracted_as_a_lora(tmp_path, model, files):
    """It is exact where the rank is that of the difference, and merging it restores the tuned weights."""
    tuned = _tensors(files.denoiser)
    fused = "model.diffusion_model.layers.0.attn.qkv.weight"
    direction = torch.outer(torch.randn(64), torch.randn(32)) * 0.05
    tuned[fused] = (tuned[fused].float() + direction).half()
    write_tensors(tmp_path / "tuned.safetensors", tuned, {})
    lora = tmp_path / "lora.safetensors"
    extracted = ["lora-extract", "--base", str(files.denoiser), "--tuned", str(tmp_path / "tuned.safetensors"),
                 "--rank", "16", "--precision", "fp32", "--out", str(lora)]  # fmt: skip
    assert main(extracted) == 0
    assert {name.split(".attention.")[1] for name in read_lora(lora).names.values()} == {"to_q", "to_k", "to_v"}
    merged, _ = actions.generate_checkpoint(model, loras=[lora], precision="fp32")
    assert torch.allclose(_tensors(merged)[fused], tuned[fused].float(), atol=1e-4)


def test_files_are_read_in_place(model, files, concept):
    """Full training replaces the reference of the component that it changes."""
    assert not list(model.working.glob("*/*.safetensors")) and len(list(model.working.glob("*/source.json"))) == 3
    actions.train(model, actions.configure(model, {**QUICK, "use_lora": False}, [concept]))
    (weights,) = model.working.glob("*/*.safetensors")
    assert weights.parent.name == "transformer"
    files.vae.rename(files.vae.with_name("moved.safetensors"))
    with pytest.raises(UserError, match=r"toy_vae\.safetensors"):
        preflight(model, actions.configure(model, {}, [concept]))


def test_defaults_are_those_of_the_family(model):
    settings = model.load().settings
    assert (settings.scheduler, settings.timestep_sampling, settings.resolution) == (
        "EulerDiscrete",
        "logit_normal",
        64,
    )
    assert isinstance(load_modules(model.working).family.process({}), RectifiedFlow)


def test_missing_and_wrong_components_are_named(tmp_path, files, capsys):
    (tmp_path / "wide").mkdir()
    wide = write_files(tmp_path / "wide", text_width=24)
    create = ["create", "toy", "--models-dir", str(tmp_path / "models"), "--source", str(files.denoiser)]
    cases = {
        "text encoder (toy)": [],
        "VAE": ["--text-encoder", str(files.text_encoder)],
        "expects text embeddings of width 16, its text encoder has width 24": [
            "--text-encoder", str(wide.text_encoder), "--vae", str(files.vae)],
        "no text encoder of Toy Flow (it is the VAE of Toy Flow)": [
            "--text-encoder", str(files.vae), "--vae", str(files.vae)],
    }  # fmt: skip
    for expected, arguments in cases.items():
        assert main([*create, *arguments]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert expected in line
    create[create.index("--source") + 1] = str(files.text_encoder)
    assert main(create) == 1
    assert "is the text encoder (toy) of Toy Flow: choose the file of its transformer" in capsys.readouterr().err
    assert not list((tmp_path / "models").rglob("toy"))


def test_diffusers_folder_is_created_from(tmp_path, files):
    """The working folder of a copied model is one; the tensors that modules don't have are not in it."""
    folders = Folders(tmp_path / "models")
    options = CreateOptions(text_encoder=str(files.text_encoder), vae=str(files.vae), copy_source=True)
    actions.create(folders, "toy", files.denoiser, options)
    (tmp_path / "folder").mkdir()
    for name in ("transformer", "text_encoder", "vae"):
        shutil.copytree(ModelFolder(folders, "toy").working / name, tmp_path / "folder" / name)
    assert len(list((tmp_path / "folder").glob("*/*.safetensors"))) == 3
    actions.create(folders, "again", tmp_path / "folder")
    path, verification = actions.generate_checkpoint(ModelFolder(folders, "again"))
    expected = _tensors(files.denoiser)
    expected.pop("model.diffusion_model.unused")
    made = _tensors(path)
    assert verification.ok and made.keys() == expected.keys()
    assert all(torch.equal(made[key], expected[key]) for key in expected)
