"""Every family goes in and comes out exactly: from each kind of source, with another VAE, in each precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.modules import weights_path
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_checkpoint
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.models.sd.keys import EMA, UNET, VAE
from dreambooth.settings import Folders, ModelFolder, ModelInfo
from tests.mini_models import make


class Kind(NamedTuple):
    """A source of one family, and what Create must detect."""

    model_type: str
    prediction: str
    how: dict[str, Any] = {}  # noqa: RUF012 (never changed)


KINDS = {
    "SD1": Kind("v1x", "epsilon", {"ema": True}),
    "SD1 inpainting": Kind("v1x", "epsilon", {"inpainting": True, "ema": True}),
    "SD2 512": Kind("v2x-512", "epsilon"),
    "SD2 768": Kind("v2x", "v_prediction"),
    "SD2 inpainting": Kind("v2x-512", "epsilon", {"inpainting": True}),
    "SDXL": Kind("SDXL", "epsilon"),
    "SDXL inpainting": Kind("SDXL", "epsilon", {"inpainting": True}),
    "SDXL velocity": Kind("SDXL", "v_prediction", {"v_pred": True, "ztsnr": True, "declare_prediction": False}),
}
ONE_OF_EACH = ("SD1", "SD2 768", "SDXL")
SCHEDULES = {"betas", "alphas_cumprod", "denoiser.sigmas"}
# What a diffusers folder can't hold, and what is put in its place so that strict readers open the file.
FILLED = ("logit_scale", "text_projection", "resblocks.2.")

Tensors = dict[str, torch.Tensor]


class Made(NamedTuple):
    source: Path
    model: ModelFolder
    facts: ModelInfo


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A model of each kind with its source, created once. Must not be changed."""
    folder, done = tmp_path_factory.mktemp("families"), {}

    def of(kind: str) -> Made:
        if kind not in done:
            source = make(folder / f"{kind}.safetensors", KINDS[kind].model_type, **KINDS[kind].how)
            model = ModelFolder(Folders(folder), kind)
            done[kind] = Made(source, model, extract(source, model))
        return done[kind]

    return of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_single_file(kind, made, out, assert_same):
    """Every tensor, in the source's order, with its metadata; the kind of model is detected from the file."""
    source, model, facts = made(kind)
    assert (facts.model_type, facts.prediction_type) == KINDS[kind][:2]
    write_checkpoint(model, out)
    assert_same(out, source)
    with open_tensors(out) as ours, open_tensors(source) as theirs:
        assert ours.keys() == theirs.keys() and ours.metadata == theirs.metadata
    assert verify_checkpoint(out, model).ok


@pytest.mark.parametrize("kind", KINDS)
def test_scheduler_config_and_pipeline_class_of_each_family(kind, made):
    """Programs that generate with the folder read both from it."""
    working = made(kind).model.working
    schedule = read_json(working / "scheduler" / "scheduler_config.json")
    assert schedule["prediction_type"] == KINDS[kind].prediction
    assert schedule.get("rescale_betas_zero_snr", False) == ("ztsnr" in KINDS[kind].how)
    index = read_json(working / "model_index.json")
    assert ("Inpaint" in index["_class_name"]) == ("inpainting" in KINDS[kind].how)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_pickle(kind, made, new, out, tmp_path, read_all, assert_same):
    """With the config values as a top-level string of the .ckpt."""
    source, path = made(kind).source, tmp_path / "模型 a.ckpt"
    with open_tensors(source) as file:
        torch.save({"state_dict": read_all(source), "global_step": 3, **file.metadata}, path)
    assert extract(path, new).prediction_type == KINDS[kind].prediction
    path.unlink()
    assert_same(write_checkpoint(new, out), source)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_folder(kind, made, new, out, read_all):
    """All tensors that a folder has are written, and those that strict readers need, in the right shape."""
    source, model, _ = made(kind)
    facts = extract(model.working, new)
    assert (facts.model_type, facts.prediction_type) == KINDS[kind][:2]
    ours, theirs = read_all(write_checkpoint(new, out)), read_all(source)
    lacking = {key for key in theirs if key not in ours and not key.startswith(EMA)}
    assert ours.keys() <= theirs.keys() and all(key in SCHEDULES or key.endswith("position_ids") for key in lacking)
    for key, tensor in ours.items():
        assert tensor.shape == theirs[key].shape, key
        filled = KINDS[kind].model_type != "v1x" and any(part in key for part in FILLED)
        carried = not filled or (key.endswith("text_projection") and KINDS[kind].model_type == "SDXL")
        assert not carried or torch.equal(tensor, theirs[key]), key


VAE_FORMS = ("original", "alone", "folder", "model", "checkpoint")


def _vae_cases():
    """Each form with each kind, every second one for a checkpoint without a VAE; the other half is nightly."""
    for number, form in enumerate(VAE_FORMS):
        for offset, kind in enumerate(ONE_OF_EACH):
            for baked_out in (False, True):
                marks = () if (number + offset) % 2 == baked_out else pytest.mark.nightly
                name = f"{'added' if baked_out else 'replaced'}-{kind}-{form}"
                yield pytest.param(kind, form, baked_out, id=name, marks=marks)


@pytest.mark.parametrize(("kind", "form", "baked_out"), list(_vae_cases()))
def test_another_vae(kind, form, baked_out, made, new, out, tmp_path, read_all):
    """In every form of VAE files; also for a checkpoint without a VAE."""
    source, vae = read_all(made(kind).source), tmp_path / "vae of another"
    expected = _another_vae(form, kind, made, vae, read_all)
    path = tmp_path / "source.safetensors"
    remaining = {key: tensor for key, tensor in source.items() if not (baked_out and key.startswith(VAE))}
    with open_tensors(made(kind).source) as file:
        safetensors.torch.save_file(remaining, path, file.metadata)
    extract(path, new, vae=vae)
    ours = read_all(write_checkpoint(new, out))
    assert ours.keys() == source.keys()
    assert all(torch.equal(ours[key], expected.get(key, source[key])) for key in source)
    assert verify_checkpoint(out, new).ok


def _another_vae(form: str, kind: str, made: Any, path: Path, read_all: Any) -> Tensors:
    """Write a VAE with other values as ``form`` to ``path``; its tensors by their names in a checkpoint."""
    source, model, _ = made(kind)
    folder = path.with_name("changed")
    shutil.copytree(model.working, folder)
    safetensors.torch.save_file(
        {key: value + 1 for key, value in read_all(weights_path(folder, "vae")).items()}, weights_path(folder, "vae")
    )
    original = {key: value + 1 for key, value in read_all(source).items() if key.startswith(VAE)}
    if form == "original":
        safetensors.torch.save_file({key.removeprefix(VAE): value for key, value in original.items()}, path)
    elif form == "checkpoint":
        safetensors.torch.save_file({**read_all(source), **original}, path)
    else:
        chosen = {"alone": weights_path(folder, "vae"), "folder": folder / "vae", "model": folder}[form]
        chosen.rename(path)
    return original


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_precision_of_the_working_copy_and_of_the_file(kind, dtype, made, new, out, tmp_path, read_all):
    """Weights are converted when created or written; other tensors are unchanged."""
    source = read_all(made(kind).source)
    extract(made(kind).source, new, dtype=dtype)
    write_checkpoint(new, out)
    write_checkpoint(made(kind).model, tmp_path / "out too.safetensors", dtype=dtype)
    for path in (out, tmp_path / "out too.safetensors"):
        for key, tensor in read_all(path).items():
            is_unchanged = key.startswith(EMA) or tensor.dtype != dtype
            assert torch.equal(tensor, source[key] if is_unchanged else source[key].to(dtype)), key
            assert not (is_unchanged and key.startswith((UNET, VAE))), key


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_folder_with_ema_weights_as_its_main_file(kind, made, new, out, tmp_path, read_all):
    """As Stable Diffusion 1.5 was published: EMA weights in the main file, the weights in a variant non_ema."""
    folder = tmp_path / "folder"
    shutil.copytree(made(kind).model.working, folder)
    main = weights_path(folder, "unet")
    plain = read_all(main)
    main.rename(main.with_suffix(".non_ema.safetensors"))
    safetensors.torch.save_file({key: value * 0.5 for key, value in plain.items()}, main)
    facts = extract(folder, new, extract_ema=True)
    assert facts.has_ema
    assert _equal(read_all(weights_path(new.working, "unet")), plain)
    assert _equal(read_all(weights_path(new.working, "ema_unet")), {k: v * 0.5 for k, v in plain.items()})
    source, ours = read_all(made(kind).source), read_all(write_checkpoint(new, out, ema="replace"))
    assert all(torch.equal(ours[key], source[key] * 0.5) for key in ours if key.startswith(UNET))


OVERRIDES = [
    ("SD1", {"model_type": "v1x"}, ("v1x", "epsilon")),
    ("SD1", {"prediction_type": "v_prediction"}, ("v1x", "v_prediction")),
    ("SD1", {"model_type": "SDXL"}, "is a Stable Diffusion 1.x checkpoint, not SDXL"),
    ("SD1", {"model_type": "v2x"}, "is a Stable Diffusion 1.x checkpoint, not v2x"),
    ("SD2 768", {"model_type": "v2x-512"}, ("v2x-512", "v_prediction")),
    ("SD2 768", {"prediction_type": "epsilon"}, ("v2x-512", "epsilon")),
    ("SD2 512", {"model_type": "v2x", "prediction_type": "v_prediction"}, ("v2x", "v_prediction")),
    ("SD2 512", {"model_type": "v1x"}, "is a Stable Diffusion 2.x .* checkpoint, not v1x"),
    ("SDXL", {"prediction_type": "v_prediction"}, ("SDXL", "v_prediction")),
    ("SDXL", {"model_type": "v2x"}, "is a Stable Diffusion XL checkpoint, not v2x"),
    ("SDXL velocity", {"prediction_type": "epsilon"}, ("SDXL", "epsilon")),
]


@pytest.mark.parametrize(("kind", "options", "expected"), OVERRIDES)
def test_the_users_choice_of_model_type_and_prediction(kind, options, expected, made, new, out, read_all):
    """It is used and written to the file, unless it contradicts the tensors: then nothing is written."""
    source = made(kind).source
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            extract(source, new, **options)
        assert not new.root.exists()
        return
    facts = extract(source, new, **options)
    assert (facts.model_type, facts.prediction_type) == expected
    schedule = json.loads((new.working / "scheduler" / "scheduler_config.json").read_text())
    assert schedule["prediction_type"] == expected[1]
    written, before = read_all(write_checkpoint(new, out)), read_all(source)
    added = [written.pop(key) for key in written.keys() - before.keys()]
    assert len(added) == ((kind, expected[1]) == ("SDXL", "v_prediction")) and _equal(written, before)


def _equal(ours: Tensors, theirs: Tensors) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
