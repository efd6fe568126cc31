"""Files of FLUX.2 klein: what is created from them is written again bit for bit; others are named."""

from __future__ import annotations

import json

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.models.flux2.autoencoder import VaeNames, vae_config, vae_names
from dreambooth.models.flux2.distilled import distilled_klein
from dreambooth.models.flux2.klein import KLEIN_4B, KLEIN_9B
from dreambooth.models.flux2.names import TransformerNames
from dreambooth.models.flux2.sizes import transformer_config
from dreambooth.settings import Folders, ModelFolder
from dreambooth.tensor_files import write_tensors
from tests.flow_models.files import PREFIX, create, is_same, tensors_of
from tests.flow_models.source_checks import (
    check_dequantized,
    check_diffusers_folder,
    check_distilled,
    check_named,
    check_refused,
    check_unchanged_checkpoint,
    narrow_text_encoder,
)
from tests.flux2 import files as klein


@pytest.mark.parametrize("form", ["bare", "prefixed", "whole"])
def test_checkpoint_without_training_is_the_file_that_it_was_created_from(tmp_path, family, form, capsys):
    check_unchanged_checkpoint(tmp_path, family, form, capsys)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_diffusers_names_are_written_as_the_original_ones(tmp_path, family, form):
    scheduler = check_diffusers_folder(tmp_path, family, form)
    assert scheduler["use_dynamic_shifting"] and scheduler["max_shift"] == 1.15


def test_names_and_configs_are_those_of_diffusers_conversion(tmp_path, family):
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    modules, native = family.make_modules(), family.native_transformer()
    converted = single_file.convert_flux2_transformer_checkpoint_to_diffusers(dict(native))
    assert is_same(dict(sorted(converted.items())), dict(sorted(family.half["transformer"].items())))
    assert not torch.equal(native["final_layer.adaLN_modulation.1.weight"], converted["norm_out.linear.weight"])
    for name in converted:
        assert name in TransformerNames().to_modules(TransformerNames().to_original(name) or "")
    config = transformer_config({key: tuple(value.shape) for key, value in native.items()})
    expected = dict(modules["transformer"].config)
    assert {k: config[k] for k in klein.TRANSFORMER} == {k: expected[k] for k in klein.TRANSFORMER} | {
        "axes_dims_rope": [4] * 4
    }
    assert config["mlp_ratio"] == expected["mlp_ratio"] and config["rope_theta"] == expected["rope_theta"]
    for prefix in ("", "vae."):
        for tensors in (family.native_vae(), family.half["vae"]):
            write_tensors(tmp_path / "vae.safetensors", {prefix + key: value for key, value in tensors.items()})
            with open_tensors(tmp_path / "vae.safetensors") as file:
                names = vae_names(file)
                config = vae_config({key: file.shape(name) for key, name in names.items()})
            assert {VaeNames(klein.VAE).to_original(key) for key in modules["vae"].state_dict()} - {
                None
            } == names.keys()
            assert {key: config[key] for key in klein.VAE} == klein.VAE and config["use_quant_conv"]


@pytest.mark.parametrize("kind", ["plain", "float8_e4m3fn"])
def test_weights_in_8_bits_are_dequantized(tmp_path, family, kind):
    check_dequantized(tmp_path, family, kind, "_blocks.", "double_blocks.1.txt_attn.qkv.weight")


def test_settings_of_stable_diffusion_are_refused_each_with_its_reason(model, concept, session):
    check_refused(model, concept, "FLUX.2 klein 4B")
    settings = model.load().settings
    assert (settings.resolution, settings.timestep_sampling, settings.timestep_shift) == (1024, "sigmoid", 1.0)
    assert (settings.lora_unet_rank, settings.scheduler, settings.resolution_shift) == (32, "EulerDiscrete", True)
    latents = torch.Size((1, 128, *session.latents.codec.size(1024, 1024)))
    assert session.process.count_tokens(latents) == 4096 and session.codec.pixel_multiple == 16


@pytest.mark.parametrize("name, is_distilled", [
    ("flux-2-klein-4b-fp8.safetensors", True), ("FLUX2_klein_9B.safetensors", True), ("dog.safetensors", False),
    ("flux-2-klein-base-9b.safetensors", False), ("my_base_of_klein.safetensors", False),
])  # fmt: skip
def test_distilled_models_are_told_by_their_names(tmp_path, name, is_distilled):
    metadata = {"modelspec.architecture": "FLUX.2 klein 4B"}
    write_tensors(tmp_path / name, {"a": torch.zeros(1)}, metadata)
    with open_tensors(tmp_path / name) as file:
        assert bool(distilled_klein(file)) == is_distilled
    (tmp_path / "dog.civitai.info").write_text(json.dumps({"baseModel": "Flux.2 Klein 4B"}))
    with open_tensors(tmp_path / name) as file:
        assert bool(distilled_klein(file)) == (is_distilled or name.startswith("dog"))


def test_distilled_model_is_reported_and_sampled_as_it_is_meant(tmp_path, family, concept):
    title = "distilled FLUX.2 klein 4B"
    warning = check_distilled(tmp_path, family, concept, "flux-2-klein-4b.safetensors", title, steps=4)
    assert "Train on FLUX.2 klein base 4B instead" in warning
    folder = create(tmp_path, family.write(tmp_path), "copied", copy_source=True).working.rename(
        tmp_path / "klein-base"
    )
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "is_distilled": True}))
    actions.create(Folders(tmp_path / "models"), "folder", folder)
    info = ModelFolder(Folders(tmp_path / "models"), "folder").load().info
    assert "model_index.json (is_distilled) says that it is klein distilled" in info.source_warnings


def test_models_of_9_billion_parameters_and_dev_are_told_apart(family):
    def shapes(width: int, **others: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        own = {key: tuple(value.shape) for key, value in family.native_transformer().items()}
        return {PREFIX + key: shape for key, shape in {**own, "txt_in.weight": (32, width), **others}.items()}

    assert KLEIN_4B.matches(shapes(7680)) and not KLEIN_9B.matches(shapes(7680))
    assert KLEIN_9B.matches(shapes(12288)) and not KLEIN_4B.matches(shapes(12288))
    dev = shapes(15360, **{"guidance_in.in_layer.weight": (32, 32)})
    assert not KLEIN_4B.matches(dev) and not KLEIN_9B.matches(dev)
    config = {"_class_name": "Flux2Transformer2DModel", "guidance_embeds": False, "joint_attention_dim": 12288}
    assert KLEIN_9B.matches_folder({"transformer": config}) and not KLEIN_4B.matches_folder({"transformer": config})
    assert not KLEIN_9B.matches_folder({"transformer": {**config, "guidance_embeds": True}})


def test_wrong_and_missing_files_are_named(tmp_path, files, capsys):
    narrow = narrow_text_encoder(tmp_path / "narrow.safetensors", files)
    text = tensors_of(files.text_encoder)
    write_tensors(tmp_path / "short.safetensors", {k: v for k, v in text.items() if ".layers.2" not in k})
    dev = tensors_of(files.transformer) | {"guidance_in.in_layer.weight": torch.zeros(32, 32)}
    write_tensors(tmp_path / "dev.safetensors", dev)
    own = files.options
    cases = [
        (files.transformer, own[2:], "a FLUX.2 klein 4B checkpoint without text encoder (Qwen3 4B)"),
        (files.transformer, own[:2], "a FLUX.2 klein 4B checkpoint without VAE (FLUX.2) (vae.*): select a VAE too"),
        (files.transformer, ["--text-encoder", str(narrow), *own[2:]],
         "text embeddings of width 48, those of its text encoder have width 24: use the text encoder Qwen3 4B"),
        (files.transformer, ["--text-encoder", str(tmp_path / "short.safetensors"), *own[2:]], "28 are needed"),
        (files.vae, [], "is the VAE (FLUX.2) of FLUX.2 klein 4B"),
        (tmp_path / "dev.safetensors", own, "a FLUX.2 [dev] model, which can't be trained here"),
    ]  # fmt: skip
    check_named(tmp_path, cases, capsys)


def test_norms_as_newer_programs_name_them_are_read(tmp_path, files, family):
    renamed = {k.replace("_norm.scale", "_norm.weight"): v for k, v in family.native_transformer().items()}
    write_tensors(files.transformer, renamed)
    made = tensors_of(actions.generate_checkpoint(create(tmp_path, files))[0])
    assert is_same(made, {PREFIX + key: value for key, value in family.native_transformer().items()})
