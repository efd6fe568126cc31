"""LoRAs of Anima: our spelling and those of other programs, and the tools."""

from __future__ import annotations

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.lora_tools import make_lora
from dreambooth.models.anima.names import TransformerNames
from dreambooth.tensor_files import write_tensors
from tests.flow_models.adapter_checks import check_layer_presets, check_lora_tools, check_same_deltas, check_spelling
from tests.flow_models.files import Files, create, random_lora, tensors_of


def test_loras_of_other_programs_change_the_same_weights(tmp_path, model):
    """kohya's, OneTrainer's with the published prefix, and diffusers' names."""
    own = random_lora(tmp_path / "own.safetensors", model)
    weights = read_lora(own).weights
    names = [key.removeprefix("diffusion_model.").removesuffix(".alpha") for key in tensors_of(own) if "alpha" in key]
    for form in ("kohya", "net", "diffusers"):
        renamed = {}
        for name in names:
            (module,) = TransformerNames().to_modules(name)
            other = {"kohya": f"lora_unet_{name.replace('.', '_')}", "net": f"net.{name}"}
            renamed[other.get(form, f"transformer.{module}")] = weights[f"diffusion_model_{name.replace('.', '_')}"]
        if form != "net":
            check_spelling(own, model, form, renamed)
        check_same_deltas(model, own, tmp_path / "other.safetensors", renamed, "Anima")


@pytest.mark.parametrize("prefix", ["lora_unet_llm_adapter_", "diffusion_model.llm_adapter."])
def test_loras_of_the_text_adapter_are_merged(tmp_path, model, files, prefix):
    """sd-scripts trains one on request."""
    name = f"{prefix}blocks.1.cross_attn.k_proj"
    name = name.replace(".", "_") if prefix.startswith("lora_unet") else name
    up, down = torch.ones(24, 1), torch.full((1, 16), 0.5)
    write_lora(tmp_path / "lora.safetensors", {name: make_lora(up, down, (16,))}, {}, torch.float32)
    merged, _ = actions.generate_checkpoint(model, loras=[tmp_path / "lora.safetensors"], precision="fp32")
    made, before = tensors_of(merged), tensors_of(files.transformer)
    key = "net.llm_adapter.blocks.1.cross_attn.k_proj.weight"
    assert {name for name in before if not torch.equal(made[name], before[name].float())} == {key}
    assert torch.equal(made[key], before[key].float() + 0.5)


def test_loras_are_extracted_resized_merged_and_inspected(tmp_path, model, files, family):
    check_lora_tools(tmp_path, model, files, family, "diffusion_model_blocks_0_mlp_layer2", 20)


def test_weights_in_8_bits_are_dequantized(tmp_path, model, files):
    before = tensors_of(files.transformer)
    key = "net.blocks.0.mlp.layer1.weight"
    scale = before[key].float().abs().amax(dim=1, keepdim=True) / 100
    stored = {**before, key: (before[key].float() / scale).to(torch.float8_e4m3fn)}
    stored[key.replace(".weight", ".weight_scale")] = scale
    write_tensors(tmp_path / "scaled.safetensors", stored)
    scaled = Files(tmp_path / "scaled.safetensors", *files[1:])
    made = tensors_of(actions.generate_checkpoint(create(tmp_path, scaled, "scaled"))[0])
    assert list(made) == list(before) and made[key].dtype == torch.bfloat16
    assert torch.allclose(made[key].float(), before[key].float(), atol=0.07 * before[key].abs().max().item())


def test_presets_of_layers_leave_out_modulation(model):
    attention = {f"attn{i}.{layer}" for i in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")}
    kinds = (attention, {"ff.net.0.proj", "ff.net.2"})
    check_layer_presets(model, *({f"transformer_blocks.{layer}" for layer in kind} for kind in kinds), others=set())
