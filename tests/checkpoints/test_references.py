"""Components that are read from the source's files in place give, bit for bit, what their copies give."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth import actions
from dreambooth.checkpoints import extract
from dreambooth.checkpoints.modules import open_component
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.cli import main
from dreambooth.errors import UserError
from dreambooth.runs.outputs import planned_outputs
from dreambooth.runs.preflight import preflight, size_of
from dreambooth.settings import Concept, CreateOptions, Folders, ModelConfig, ModelFolder, Settings, parse
from dreambooth.tensor_files import write_tensors
from dreambooth.ui import model_summary
from tests.toy_family import registered, write_files

COMPONENTS = ("transformer", "text_encoder", "vae")
QUICK = {
    "max_train_steps": 3, "train_batch_size": 2, "bucket_step": 16, "learning_rate": 1e-3, "lora_learning_rate": 1e-2,
    "lora_txt_learning_rate": 1e-2, "use_lora": True, "stop_text_encoder": 1.0, "save_state_after": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def family():
    with registered() as family:
        family.references_sources = True
        yield family


@pytest.fixture
def concept(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"a zwx toy {i}.png")
    return Concept(instance_data_dir=str(tmp_path / "images"), n_save_sample=1, save_infer_steps=2)


def _tensors(path):
    with open_tensors(path) as file:
        return {key: file.get(key) for key in file}


def _loaded(model, component):
    with open_component(model.working, component) as file:
        return {key: (file.dtype(key), file.shape(key), file.get(key)) for key in file}


def _is_same(one, other):
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def _create(tmp_path, source, name="toy", **options):
    folders = Folders(tmp_path / "models")
    actions.create(folders, name, source, CreateOptions(**options))
    return ModelFolder(folders, name)


def _options(files):
    return {"text_encoder": str(files.text_encoder), "vae": str(files.vae)}


def _whole(folder, files):
    """One file with all three components, the denoiser in fp8."""
    tensors = {key: value.to(torch.float8_e4m3fn) for key, value in _tensors(files.denoiser).items()}
    for prefix, path in (("text_encoders.toy.", files.text_encoder), ("vae.", files.vae)):
        tensors |= {prefix + key: value for key, value in _tensors(path).items()}
    write_tensors(folder / "whole.safetensors", tensors, {})
    return folder / "whole.safetensors"


def _diffusers_folder(folder, files):
    """The same model, with the denoiser in two shards."""
    copied = _create(folder, files.denoiser, "copied", copy_source=True, **_options(files))
    for name in COMPONENTS:
        (copied.working / name).rename(folder / name)
    (folder / "model_index.json").write_text("{}")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = _tensors(weights)
    weights.unlink()
    for number in range(2):
        shard = weights.with_name(f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors")
        write_tensors(shard, {key: tensors[key] for key in list(tensors)[number::2]})
    return folder


@pytest.mark.parametrize("form", ["bare", "prefixed", "whole", "folder"])
def test_training_and_exports_are_those_of_a_copy(tmp_path, concept, form):
    folder = tmp_path / "files"
    folder.mkdir()
    files = write_files(folder, prefix="" if form == "bare" else "model.diffusion_model.")
    source, options = files.denoiser, _options(files)
    if form in ("whole", "folder"):
        source, options = (_whole if form == "whole" else _diffusers_folder)(folder, files), {}
    results = {}
    for is_copied in (False, True):
        model = _create(tmp_path / str(is_copied), source, copy_source=is_copied, **options)
        assert len(list(model.working.glob("*/*.safetensors"))) == (3 if is_copied else 0)
        loaded = [_loaded(model, name) for name in COMPONENTS]
        actions.train(model, actions.configure(model, {**QUICK, "max_train_steps": 2}, [concept]))
        result = actions.train(model, actions.configure(model, QUICK, [concept]), resume="latest")
        (lora,) = result.files
        merged, verification = actions.generate_checkpoint(model, loras=[lora], lora_weights=[0.5])
        assert verification.ok and verification.n_changed and verification.max_change
        untouched, verification = actions.generate_checkpoint(model, out=tmp_path / f"{is_copied}.safetensors")
        assert verification.ok and not verification.n_changed
        images = [image.read_bytes() for image in sorted(model.samples.glob("*.png"))]
        results[is_copied] = loaded, [_tensors(path) for path in (lora, merged, untouched)], images
    (in_place, made, images), (copied, made_of_copy, images_of_copy) = results[False], results[True]
    for one, other in zip(in_place, copied, strict=True):
        assert {key: value[:2] for key, value in one.items()} == {key: value[:2] for key, value in other.items()}
        assert all(torch.equal(one[key][2], other[key][2]) for key in other)
    assert all(_is_same(one, other) for one, other in zip(made, made_of_copy, strict=True))
    assert images and images == images_of_copy


def test_full_training_replaces_what_is_read_in_place(tmp_path, concept, monkeypatch):
    files = write_files(tmp_path)
    needed = []
    monkeypatch.setattr(extract, "require_free_space", lambda folder, n_bytes, task: needed.append(n_bytes))
    model, copied = (
        _create(tmp_path / str(copy), files.denoiser, copy_source=copy, **_options(files)) for copy in (False, True)
    )
    assert needed[0] < 20_010_000 < needed[1], "only what is copied takes space"
    assert "read in place" in model_summary.rows(model, model.load().info)["Working copy"]
    before = {path: path.read_bytes() for path in files}
    settings = parse(Settings, {**QUICK, "use_lora": False, "save_ckpt_after": True})
    planned = planned_outputs(model, ModelConfig("toy", settings), size_of(model), 3, 1)
    checkpoint = next(output for output in planned if output.what == "checkpoint")
    assert 0 < files.denoiser.stat().st_size - checkpoint.n_bytes < 10_000, "without text encoder and VAE"
    made = []
    for each in (model, copied):
        settings = {**QUICK, "use_lora": False, "stop_text_encoder": 0.0, "use_ema": True}
        for steps in (2, 3):  # the second run starts from the weights of the first
            actions.train(each, actions.configure(each, {**settings, "max_train_steps": steps}, [concept]))
        made.append(actions.generate_checkpoint(each)[0])
    assert {path: path.read_bytes() for path in files} == before
    assert _is_same(*map(_tensors, made)) and not _is_same(_tensors(made[0]), _tensors(files.denoiser))
    assert sorted(path.parent.name for path in model.working.glob("*/source.json")) == ["text_encoder", "vae"]
    assert (model.working / "ema_transformer" / "diffusion_pytorch_model.safetensors").is_file()
    again = _create(tmp_path / "False", model.working, "again")
    assert len(list(again.working.glob("*/*.safetensors"))) == 3, "the files of a model are copied"
    assert all(torch.equal(value[2], _loaded(model, "vae")[key][2]) for key, value in _loaded(again, "vae").items())


def test_files_that_moved_or_changed_are_named(tmp_path, concept, capsys):
    files = write_files(tmp_path)
    model = _create(tmp_path, files.denoiser, **_options(files))
    config = actions.configure(model, QUICK, [concept])
    out = tmp_path / "out" / "a.safetensors"

    def problems():
        with pytest.raises(UserError) as refused:
            preflight(model, config)
        return refused.value.problems

    files.vae.rename(tmp_path / "elsewhere")
    os.utime(files.text_encoder, ns=(1, 1))
    assert problems() == [f"{files.vae} (VAE of toy) is not there any more: move it back, or create the model again."]
    (tmp_path / "elsewhere").rename(files.vae)
    assert preflight(model, config) and '"mtime_ns": 1,' in (model.working / "text_encoder/source.json").read_text()
    denoiser = files.denoiser.read_bytes()
    files.denoiser.write_bytes(denoiser[:-1] + bytes([denoiser[-1] ^ 1]))
    changed = f"{files.denoiser} (transformer of toy) has changed since the model was created: restore the old file"
    assert [problem.startswith(changed) for problem in problems()] == [True]
    export = ["generate-ckpt", "toy", "--models-dir", str(tmp_path / "models"), "--out", str(out)]
    assert main(export) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert changed in line and not list(out.parent.glob("*"))
    files.denoiser.write_bytes(denoiser)
    files.vae.unlink()
    assert main(export) == 0, "it has no VAE"
    (model.working / "vae" / "source.json").unlink()
    assert "is missing: create toy again" in problems()[0]


def test_precision_and_option_copy(tmp_path):
    files = write_files(tmp_path)
    arguments = ["--source", str(files.denoiser), "--text-encoder", str(files.text_encoder), "--vae", str(files.vae)]
    for name, option in (("a", "--copy-source"), ("b", "--half"), ("c", "")):
        models = ["--models-dir", str(tmp_path / "models")]
        assert main(["create", name, *models, *arguments, *([option] if option else [])]) == 0
        in_place = list((tmp_path / "models" / "dreambooth" / name / "working").glob("*/source.json"))
        assert len(in_place) == (0 if option else 3)
