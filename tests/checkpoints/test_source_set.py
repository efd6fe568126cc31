"""Models created from several files: a UNet, text encoders and a VAE that have files of their own."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from dreambooth.checkpoints.manifest import Manifest
from dreambooth.checkpoints.modules import load_component, save_component
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_checkpoint
from dreambooth.cli import main
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from tests.mini_models import make

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXTS = {  # not Stable Diffusion 2: a UNet alone is recognized by its width, which the mini model lacks
    "v1x": ["cond_stage_model.transformer."],
    "SDXL": ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."],
}


def _split(path, folder, texts, unet_prefix=""):
    """Files of the components, with the names that WebUIs' folders have: no prefix of the checkpoint."""
    with open_tensors(path) as file:
        tensors, metadata = {key: file.get(key) for key in file}, file.metadata
    files = {}
    parts = [("unet", UNET, unet_prefix), ("vae", VAE, ""), *((f"text{i}", p, "") for i, p in enumerate(texts))]
    for name, prefix, new in parts:
        own = {new + key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        files[name] = folder / f"{name}.safetensors"
        write_tensors(files[name], own, metadata)
    return files


@pytest.mark.parametrize("unet_prefix", ["", "diffusion_model.", UNET], ids=["bare", "short", "full"])
@pytest.mark.parametrize("model_type", TEXTS)
def test_components_in_files_of_their_own_give_the_same_model(tmp_path, model_type, unet_prefix):
    texts = TEXTS[model_type]
    whole = make(tmp_path / "whole.safetensors", model_type)
    files = _split(whole, tmp_path, texts, unet_prefix)
    models = tmp_path / "models"
    encoders = [part for i in reversed(range(len(texts))) for part in ("--text-encoder", str(files[f"text{i}"]))]
    arguments = ["create", "set", "--models-dir", str(models), "--source", str(files["unet"]), *encoders,
                 "--vae", str(files["vae"]), "--model-type", model_type]  # fmt: skip
    assert main(arguments) == 0
    of_one = ["create", "whole", "--models-dir", str(models), "--source", str(whole), "--model-type", model_type]
    assert main(of_one) == 0
    one, other = (ModelFolder(Folders(models), name).working for name in ("set", "whole"))
    for path in sorted(other.glob("*/*.safetensors")):
        with open_tensors(path) as expected, open_tensors(one / path.relative_to(other)) as found:
            assert found.keys() == expected.keys()
            assert all(torch.equal(found.get(key), expected.get(key)) for key in expected), path.parent.name


def _created_from_files(tmp_path, files, *arguments):
    given = ["--source", str(files["unet"]), "--text-encoder", str(files["text0"]), "--vae", str(files["vae"])]
    assert main(["create", "set", "--models-dir", str(tmp_path / "models"), *given, *arguments]) == 0
    return ModelFolder(Folders(tmp_path / "models"), "set")


def test_the_manifest_lists_the_files_and_changes_are_measured_against_them(tmp_path):
    whole = make(tmp_path / "whole.safetensors", "v1x")
    files = _split(whole, tmp_path, TEXTS["v1x"])
    model = _created_from_files(tmp_path, files)
    manifest = Manifest.load(model.source)
    listed = [(file.component, file.path, file.size, file.sha256) for file in manifest.files]
    order = {"": "unet", "text_encoder": "text0", "vae": "vae"}
    assert listed == [
        (part, str(path), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for part, path in ((part, files[name]) for part, name in order.items())
    ]
    vae = load_component(model.working, "vae")
    with torch.no_grad():
        vae.decoder.conv_out.bias.add_(0.25)
    save_component(model.working, "vae", vae)
    found = verify_checkpoint(write_checkpoint(model, tmp_path / "a.safetensors"), model)
    assert found.ok and found.n_changed == 1 and found.max_change == pytest.approx(0.25, abs=1e-2)
    assert main(["create", "whole", "--models-dir", str(tmp_path / "models"), "--source", str(whole)]) == 0
    of_one = ModelFolder(model.folders, "whole").source / "manifest.json"
    assert "files" not in json.loads(of_one.read_text()), "older versions read it"


def test_folders_and_shards_give_the_components(tmp_path):
    """A diffusers folder with both text encoders of SDXL is given twice; its second one is in two files."""
    whole = make(tmp_path / "whole.safetensors", "SDXL")
    files = _split(whole, tmp_path, TEXTS["SDXL"])
    models = Folders(tmp_path / "models")
    assert main(["create", "whole", "--models-dir", str(models.models), "--source", str(whole)]) == 0
    folder = ModelFolder(models, "whole").working
    weights = folder / "text_encoder_2" / "model.safetensors"
    with open_tensors(weights) as file:
        tensors = {key: file.get(key) for key in file}
    weights.unlink()
    halves = list(tensors)[::2], list(tensors)[1::2]
    for number, keys in enumerate(halves, 1):
        write_tensors(
            weights.with_name(f"model-0000{number}-of-00002.safetensors"), {key: tensors[key] for key in keys}
        )
    arguments = ["create", "set", "--models-dir", str(models.models), "--source", str(files["unet"]),
                 *["--text-encoder", str(folder)] * 2, "--vae", str(folder)]  # fmt: skip
    assert main(arguments) == 0
    with open_tensors(ModelFolder(models, "set").working / "text_encoder_2" / "model.safetensors") as file:
        assert set(file) == set(tensors) and all(torch.equal(file.get(key), tensors[key]) for key in file)
    listed = Manifest.load(ModelFolder(models, "set").source).files
    assert [file.component for file in listed] == ["", "text_encoder", "text_encoder_2", "text_encoder_2", "vae"]


def test_files_that_do_not_fit_are_named_and_nothing_is_left(tmp_path, capsys):
    files = _split(make(tmp_path / "whole.safetensors", "v1x"), tmp_path, TEXTS["v1x"])
    wide = tmp_path / "wide.safetensors"
    with open_tensors(files["text0"]) as file:
        name = "text_model.embeddings.token_embedding.weight"
        write_tensors(wide, {key: file.get(key) for key in file} | {name: torch.cat([file.get(name)] * 2, dim=1)})
    models = tmp_path / "models"

    def refused(*arguments: str) -> str:
        assert main(["create", "set", "--models-dir", str(models), "--source", str(files["unet"]), *arguments]) == 1
        assert not (models / "dreambooth" / "set").exists()
        return capsys.readouterr().err

    text, vae = ("--text-encoder", str(files["text0"])), ("--vae", str(files["vae"]))
    assert "UNet without VAE and text encoder" in refused() and "--text-encoder" in refused()
    assert "without VAE" in refused(*text)
    assert "no text encoder of Stable Diffusion 1.x (it is a VAE" in refused("--text-encoder", str(files["vae"]), *vae)
    assert "is not a VAE of Stable Diffusion 1.x" in refused(*text, "--vae", str(files["text0"]))
    assert "are both the text encoder" in refused(*text, *text, *vae)
    bare = tmp_path / "bare.safetensors"
    with open_tensors(files["vae"]) as file:
        write_tensors(bare, {key: file.get(key) for key in file if "quant_conv" not in key})
    assert f"{bare} is not a VAE of Stable Diffusion 1.x: choose" in refused(*text, "--vae", str(bare))
    assert "its text encoder has width" in refused("--text-encoder", str(wide), *vae)
    assert "no model has more than two" in refused(*text, *text, *text, *vae)


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale", "comfy_quant"])
def test_scaled_weights_are_refused(tmp_path, capsys, name):
    whole = make(tmp_path / "whole.safetensors", "v1x")
    with open_tensors(whole) as file:
        tensors, metadata = {key: file.get(key) for key in file}, file.metadata
    scale = {UNET + f"middle_block.1.transformer_blocks.0.attn1.to_q.{name}": torch.ones(1)}
    write_tensors(whole, tensors | scale, metadata)
    assert main(["create", "scaled", "--models-dir", str(tmp_path / "models"), "--source", str(whole)]) == 1
    assert "is quantized" in capsys.readouterr().err
    assert not (tmp_path / "models" / "dreambooth" / "scaled").exists()


@pytest.mark.parametrize(("ending", "what"), [("weight.absmax", "4 bits (nf4)"), ("wscales", "nunchaku")])
def test_quantized_files_are_named(tmp_path, capsys, ending, what):
    whole = make(tmp_path / "whole.safetensors", "v1x")
    with open_tensors(whole) as file:
        tensors = {key: file.get(key) for key in file}
    write_tensors(whole, tensors | {UNET + f"middle_block.1.proj_in.{ending}": torch.ones(1)})
    assert main(["create", "quantized", "--models-dir", str(tmp_path / "models"), "--source", str(whole)]) == 1
    assert what in capsys.readouterr().err


def test_a_vae_with_other_latents_is_refused(tmp_path, capsys):
    files = _split(make(tmp_path / "whole.safetensors", "v1x"), tmp_path, TEXTS["v1x"])
    with open_tensors(files["vae"]) as file:
        tensors = {key: file.get(key) for key in file}
    quantizer = tensors["post_quant_conv.weight"]
    tensors["post_quant_conv.weight"] = quantizer.repeat(4, 4, 1, 1)
    write_tensors(tmp_path / "wide.safetensors", tensors)
    arguments = ["--text-encoder", str(files["text0"]), "--vae", str(tmp_path / "wide.safetensors")]
    assert main(["create", "x", "--models-dir", str(tmp_path / "m"), "--source", str(files["unet"]), *arguments]) == 1
    assert "its VAE of 16: the VAE is that of another model family" in capsys.readouterr().err
