"""LoRAs of Z-Image: our spelling and those of other programs, and the tools."""

from __future__ import annotations

import pytest
import torch

from dreambooth.checkpoints.lora_file import read_lora
from dreambooth.checkpoints.lora_tools import make_lora
from tests.flow_models.adapter_checks import check_layer_presets, check_lora_tools, check_same_deltas, check_spelling
from tests.flow_models.files import random_lora


@pytest.mark.parametrize("form", ["kohya, fused", "kohya, split", "diffusers"])
def test_loras_of_other_programs_change_the_same_weights(tmp_path, model, form):
    own = random_lora(tmp_path / "own.safetensors", model)
    weights = {}
    file = read_lora(own)
    for name, adapter in file.weights.items():
        path = name.removeprefix("diffusion_model_")
        if form == "diffusers":
            weights[f"transformer.{file.names[name].removeprefix('diffusion_model.')}"] = adapter
        elif form == "kohya, split":
            weights[f"lora_unet_{path}"] = adapter
        elif "_to_" not in path or "to_out" in path:
            weights[f"lora_unet_{path.replace('to_out_0', 'out')}"] = adapter
    if form == "kohya, fused":
        adapters = read_lora(own).weights
        for i in range(2):
            parts = [adapters[f"diffusion_model_layers_{i}_attention_to_{x}"].tensors for x in "qkv"]
            up = torch.block_diag(*(part["lora_up.weight"] for part in parts))
            down = torch.cat([part["lora_down.weight"] for part in parts])
            weights[f"lora_unet_layers_{i}_attention_qkv"] = make_lora(up, down, (32,))
    if form != "kohya, fused":
        check_spelling(own, model, form.split(",")[0], weights)
    check_same_deltas(model, own, tmp_path / "other.safetensors", weights, "Z-Image", atol=1e-5)


def test_loras_are_extracted_resized_merged_and_inspected(tmp_path, model, files, family):
    check_lora_tools(tmp_path, model, files, family, "diffusion_model_layers_0_feed_forward_w2", 14)


def test_presets_of_layers_leave_out_modulation_and_all_linear_covers_refiners(model):
    attention = [f"attention.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0")]
    mlp = [f"feed_forward.w{i}" for i in (1, 2, 3)]
    refiners = {f"{kind}_refiner.{layer}" for kind in ("noise", "context") for layer in attention + mlp}
    main_blocks = [{f"layers.{layer}" for layer in kind} for kind in (attention, mlp)]
    check_layer_presets(model, *main_blocks, others=refiners)
