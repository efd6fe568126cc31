"""LoRAs of FLUX.1: our spelling and those of other programs, and the tools."""

from __future__ import annotations

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.lora_tools import make_lora
from dreambooth.errors import UserError
from dreambooth.models.flux.names import TransformerNames
from dreambooth.runs.preflight import preflight
from tests.flow_models.adapter_checks import check_layer_presets, check_lora_tools, check_same_deltas
from tests.flow_models.files import random_lora
from tests.flux.files import WIDTH
from tests.flux.test_flux_training import LAYERS


@pytest.mark.parametrize("form", ["kohya", "ai-toolkit, native", "diffusers, bare", "OneTrainer"])
def test_loras_of_other_programs_change_the_same_weights(tmp_path, model, form):
    """Those with the original names have one matrix for query, key and value, with the MLP's in single blocks."""
    own = random_lora(tmp_path / "own.safetensors", model)
    adapters = {name.removeprefix("transformer_"): adapter for name, adapter in read_lora(own).weights.items()}
    if form in ("diffusers, bare", "OneTrainer"):
        weights = {
            layer if form != "OneTrainer" else f"lora_transformer_{layer}".replace(".", "_"):
            adapters[layer.replace(".", "_")] for layer in LAYERS
        }  # fmt: skip
    else:
        weights = {}
        for original, tensors in native_adapters(adapters).items():
            kohya = f"lora_unet_{original}".replace(".", "_")
            weights[kohya if form == "kohya" else f"diffusion_model.{original}"] = tensors
    check_same_deltas(model, own, tmp_path / "other.safetensors", weights, "FLUX.1 or Chroma", atol=1e-5)


@pytest.mark.parametrize(
    ("other", "title"),
    [("distilled_guidance_layer_layers_0_linear_1", "Chroma"), ("lora_unet_double_blocks_0_img_mod_lin", "FLUX.1")],
)
def test_what_one_family_alone_has_names_the_family(tmp_path, model, other, title):
    own = read_lora(random_lora(tmp_path / "own.safetensors", model)).weights
    weights = {"lora_unet_double_blocks_0_img_attn_proj": next(iter(own.values())), other: next(iter(own.values()))}
    write_lora(tmp_path / "other.safetensors", weights, {}, torch.float32)
    assert read_lora(tmp_path / "other.safetensors").made_for == title


def native_adapters(adapters):
    """The adapters by the original names of modules; those of several modules have the sum of their ranks."""
    names, made = TransformerNames(WIDTH), {}
    for original in dict.fromkeys(names.to_original(f"{layer}.weight") or "" for layer in LAYERS):
        parts = [adapters[name.removesuffix(".weight").replace(".", "_")] for name in names.to_modules(original)]
        up = torch.block_diag(*(part.tensors["lora_up.weight"] for part in parts))
        down = torch.cat([part.tensors["lora_down.weight"] for part in parts])
        made[original.removesuffix(".weight")] = make_lora(up, down, (down.shape[1],))
    return made


def test_loras_are_extracted_resized_merged_and_inspected(tmp_path, model, files, family):
    name = "transformer_single_transformer_blocks_0_proj_out"
    check_lora_tools(tmp_path, model, files, family, name, len(LAYERS))


def test_presets_of_layers_leave_out_modulation(model):
    double, single = "transformer_blocks.", "single_transformer_blocks."
    parts = ["to_q", "to_k", "to_v"]
    attention = {f"{double}attn.{part}" for part in (*parts, "to_out.0", "to_add_out")}
    attention |= {f"{double}attn.add_{x}_proj" for x in "qkv"} | {f"{single}attn.{part}" for part in parts}
    mlp = {f"{double}{part}.net.{layer}" for part in ("ff", "ff_context") for layer in ("0.proj", "2")}
    check_layer_presets(model, attention | {f"{single}proj_out"}, mlp | {f"{single}proj_mlp"}, others=set())


def test_kohyas_spelling_is_refused_since_it_has_query_key_and_value_as_one(model, concept):
    config = actions.configure(model, {"use_lora": True, "lora_spelling": "kohya"}, [concept])
    with pytest.raises(UserError, match=r"kohya's LoRAs of FLUX.1 have no adapter for .*attn.to_q alone"):
        preflight(model, config)
