"""A source without text encoder or VAE: the message says what it needs, and which files of that kind there are."""

from __future__ import annotations

import shutil

import pytest

from dreambooth import actions
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.settings import CreateOptions, Folders
from dreambooth.tensor_files import write_tensors
from tests.mini_models import make
from tests.toy_family import registered, write_files

UNET, VAE = "model.diffusion_model.", "first_stage_model."


def _part(whole, path, prefix):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_tensors(whole) as file:
        write_tensors(path, {key.removeprefix(prefix): file.get(key) for key in file if key.startswith(prefix)})
    return path


def _refused(folders, source, **options):
    with pytest.raises(UserError) as refused:
        actions.create(folders, "new", source, CreateOptions(**options))
    assert not (folders.dreambooth / "new").exists()
    (line,) = refused.value.problems
    return line


def test_components_of_the_family_are_found_in_the_hosts_folders(tmp_path):
    models, extra = tmp_path / "models", tmp_path / "extra"
    whole = make(tmp_path / "whole.safetensors", "v1x")
    _part(whole, models / "VAE" / "of SD.safetensors", VAE)
    (models / "VAE" / "damaged.safetensors").write_bytes(b"no tensors")
    (models / "text_encoder").mkdir()
    extra.mkdir()
    with registered():
        files = write_files(tmp_path)
        shutil.copy(files.vae, models / "VAE" / "toy.safetensors")
        for number in range(4):
            shutil.copy(files.text_encoder, (models / "text_encoder" if number else extra) / f"{number}.safetensors")
        wide = write_files(extra, text_width=24).text_encoder  # does not fit
        wide.rename(models / "text_encoder" / "0 wide.safetensors")
        line = _refused(Folders(models, text_encoders=(extra,)), files.denoiser)
        assert line == (
            f"{files.denoiser} is a transformer without text encoder (toy) and VAE (Toy Flow): add their files (Text "
            "encoder and VAE under Create; --text-encoder, --vae). Found for the text encoder (toy): "
            "text_encoder/1.safetensors, text_encoder/2.safetensors, text_encoder/3.safetensors and others. Found for "
            "the VAE: VAE/toy.safetensors."
        )
        line = _refused(Folders(models), files.denoiser, text_encoder=str(files.text_encoder))
        assert line.endswith("select a VAE too (option VAE, --vae). Found for the VAE: VAE/toy.safetensors.")
    checkpoint = tmp_path / "more" / "a.safetensors"
    checkpoint.parent.mkdir()
    shutil.copy(whole, checkpoint)
    unet = _part(whole, tmp_path / "unet.safetensors", UNET)
    line = _refused(Folders(models, more_checkpoints=(checkpoint.parent,)), unet)
    assert "use a checkpoint that has them all, or add their files" in line
    assert f"Found for the VAE: VAE/of SD.safetensors, {checkpoint}. Found for the text encoder: {checkpoint}." in line
