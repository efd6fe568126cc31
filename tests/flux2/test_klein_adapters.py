"""LoRAs of FLUX.2 klein: our spelling and those of other programs, and the tools."""

from __future__ import annotations

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.lora_tools import make_lora
from dreambooth.errors import UserError
from dreambooth.models.flux2.names import TransformerNames
from dreambooth.models.registry import adapter_title
from dreambooth.runs.preflight import preflight
from tests.flow_models.adapter_checks import check_layer_presets, check_lora_tools, check_same_deltas
from tests.flow_models.files import random_lora, tensors_of

_FUSED = {"img_attn_qkv": ("to_q", "to_k", "to_v"), "txt_attn_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}


@pytest.mark.parametrize("form", ["kohya, fused", "native, fused", "diffusers", "OneTrainer", "bare"])
def test_loras_of_other_programs_change_the_same_weights(tmp_path, model, form):
    """musubi-tuner's, ai-toolkit's, diffusers' and OneTrainer's."""
    own = random_lora(tmp_path / "own.safetensors", model)
    weights = read_lora(own).weights
    modules = {}
    for key in tensors_of(own):
        name = key.removesuffix(".alpha").removeprefix("diffusion_model.").removeprefix("transformer.")
        if key.endswith(".alpha"):
            module = name if "transformer_blocks" in name else TransformerNames().to_modules(name)[0]
            modules[module] = weights[key.removesuffix(".alpha").replace(".", "_")]
    written = {"diffusers": "transformer.{}", "OneTrainer": "lora_transformer_{}", "bare": "{}"}
    if form in written:
        renamed = {written[form].format(module): adapter for module, adapter in modules.items()}
        renamed = {k.replace(".", "_") if k.startswith("lora_") else k: v for k, v in renamed.items()}
    else:
        prefix = "lora_unet_" if form.startswith("kohya") else "diffusion_model."
        renamed = {}
        for block in range(2):
            for fused, parts in _FUSED.items():
                own_parts = [modules.pop(f"transformer_blocks.{block}.attn.{part}").tensors for part in parts]
                up = torch.block_diag(*(part["lora_up.weight"] for part in own_parts))
                down = torch.cat([part["lora_down.weight"] for part in own_parts])
                renamed[f"double_blocks.{block}.{fused.replace('_qkv', '.qkv')}"] = make_lora(up, down, (32,))
        renamed |= {str(TransformerNames().to_original(module)): adapter for module, adapter in modules.items()}
        renamed = {prefix + (k.replace(".", "_") if "lora" in prefix else k): v for k, v in renamed.items()}
    check_same_deltas(model, own, tmp_path / "other.safetensors", renamed, "FLUX.2 klein 4B", atol=1e-5)


def test_loras_are_extracted_resized_merged_and_inspected(tmp_path, model, files, family):
    check_lora_tools(tmp_path, model, files, family, "diffusion_model_single_blocks_1_linear1", 28)


def test_families_of_loras_are_told_apart(tmp_path):
    """By the sizes of modules that FLUX.1 has too; by metadata where only attention was trained."""
    sizes = {
        "FLUX.2 klein 4B": {"lora_unet_double_blocks_0_img_mlp_0": (18432, 3072)},
        "FLUX.2 klein 9B": {"diffusion_model_single_blocks_3_linear1": (36864, 4096)},
        "FLUX.1": {"lora_unet_double_blocks_0_img_mlp_0": (12288, 3072), "single_blocks_0_linear1": (21504, 3072)},
        "FLUX.2 [dev]": {"transformer_single_transformer_blocks_3_attn_to_qkv_mlp_proj": (55296, 6144)},
    }  # fmt: skip
    titles = {name: adapter_title("", own) for name, own in sizes.items()}
    assert [titles[name] for name in ("FLUX.2 klein 4B", "FLUX.2 klein 9B")] == ["FLUX.2 klein 4B", "FLUX.2 klein 9B"]
    assert "klein" not in titles["FLUX.1"] + titles["FLUX.2 [dev]"]
    attention = make_lora(torch.ones(96, 1), torch.ones(1, 32), (32,))
    path, metadata = tmp_path / "lora.safetensors", {"ss_base_model_version": "flux_2_klein_9b"}
    write_lora(path, {"lora_unet_double_blocks_0_img_attn_qkv": attention}, metadata, torch.float32)
    assert read_lora(path).made_for == "FLUX.2 klein 9B"


def test_presets_of_layers_leave_out_modulation(model):
    parts = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    attention = {f"transformer_blocks.attn.{part}" for part in parts}
    attention |= {f"single_transformer_blocks.attn.{part}" for part in ("to_qkv_mlp_proj", "to_out")}
    mlp = {f"transformer_blocks.{part}.linear_{i}" for part in ("ff", "ff_context") for i in ("in", "out")}
    check_layer_presets(model, attention, mlp, others=set())


def test_kohyas_spelling_is_refused_since_it_has_query_key_and_value_as_one(model, concept):
    config = actions.configure(model, {"use_lora": True, "lora_spelling": "kohya"}, [concept])
    with pytest.raises(UserError, match=r"kohya's LoRAs of FLUX.2 klein 4B have no adapter for .*attn.to_q alone"):
        preflight(model, config)
