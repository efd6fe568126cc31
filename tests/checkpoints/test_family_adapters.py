"""Adapters of every family: their names, merged into a checkpoint, and loaded by diffusers."""

from __future__ import annotations

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.lora import apply_lora, lora_name
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.modules import load_modules
from dreambooth.checkpoints.single_file import WeightedLora, write_checkpoint
from dreambooth.checkpoints.verify import verify_lora
from dreambooth.settings import Folders, ModelFolder
from dreambooth.training.adapters import AdapterConfig, collect_adapters, inject
from dreambooth.training.lora_spelling import respelled
from tests.mini_models import create

FAMILIES = ("v1x", "v2x", "v2x-512", "SDXL")
PIPELINES = {"SDXL": "StableDiffusionXLPipeline"}
NAMED = {
    "v1x": {"lora_unet_down_blocks_0_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1"},
    "SDXL": {
        "lora_unet_input_blocks_3_1_transformer_blocks_1_attn1_to_out_0", "lora_unet_middle_block_1_proj_in",
        "lora_unet_input_blocks_2_0_op", "lora_unet_output_blocks_1_2_conv", "lora_unet_middle_block_0_in_layers_2",
        "lora_te1_text_model_encoder_layers_1_self_attn_q_proj", "lora_te2_text_model_encoder_layers_0_mlp_fc2",
    },
}  # fmt: skip


@pytest.fixture
def model(request, tmp_path) -> ModelFolder:
    return create(Folders(tmp_path / "models"), "small", request.param, dtype=torch.float32)


@pytest.fixture
def lora(model, tmp_path):
    """A LoRA in float32 with adapters for the UNet's convolutions too."""
    modules = load_modules(model.working)
    layers = {}
    for name in ("unet", *modules.text_encoders):
        layers |= inject(modules, name, AdapterConfig("LoRA", 2, 1.0, conv_rank=2), 1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers.values():
            layer.up.normal_(std=0.1, generator=generator)
    write_lora(tmp_path / "x.safetensors", collect_adapters(layers), {}, torch.float32)
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize("model", FAMILIES, indirect=True)
def test_names_equal_those_of_kohyas_trainer(model, lora):
    modules = load_modules(model.working)
    targets = [
        lora_name(modules.layout, component, path)
        for component, module in {"unet": modules.denoiser, **modules.text_encoders}.items()
        for path in modules.family.adapter_targets(component, module, convolutions=True)
    ]
    assert len(targets) == len(set(targets))
    assert read_lora(lora).weights.keys() == set(targets)
    assert NAMED.get(modules.family.model_type, NAMED["v1x"]) <= set(targets)
    assert verify_lora(lora, model).ok


@pytest.mark.parametrize("model", FAMILIES, indirect=True)
def test_merged_checkpoint_and_diffusers_give_the_output_of_our_modules(model, lora, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft", reason="diffusers loads LoRAs through peft, which is not installed")
    ours = load_modules(model.working)
    apply_lora(ours, read_lora(lora))

    out = write_checkpoint(model, tmp_path / "merged.safetensors", loras=[WeightedLora(lora)], dtype=torch.float32)
    actions.create(model.folders, "merged", out)
    merged = load_modules(ModelFolder(model.folders, "merged").working)

    name = PIPELINES.get(ours.family.model_type, "StableDiffusionPipeline")
    pipeline = getattr(diffusers, name).from_pretrained(model.working, local_files_only=True)
    pipeline.load_lora_weights(str(lora))

    spelled = tmp_path / "diffusers.safetensors"
    adapters = respelled(read_lora(lora).weights, model, "diffusers")
    write_lora(spelled, adapters, {}, torch.float32)
    renamed = getattr(diffusers, name).from_pretrained(model.working, local_files_only=True)
    renamed.load_lora_weights(str(spelled))

    wanted, plain = outputs(ours.parts), outputs(load_modules(model.working).parts)
    assert all((a - b).abs().mean() > 1e-3 for a, b in zip(wanted, plain, strict=True)), "the LoRA does nothing"
    for others in (merged.parts, pipeline.components, renamed.components):
        for theirs, answer in zip(outputs(others), wanted, strict=True):
            assert torch.allclose(theirs, answer, atol=1e-3 * answer.abs().max().item())


@torch.no_grad()
def outputs(parts) -> list[torch.Tensor]:
    """The outputs of each text encoder for some tokens, and of the UNet for noise."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 1000, (1, 77), generator=generator)
    encoders = [parts["text_encoder"], parts.get("text_encoder_2")]
    texts = [encoder(tokens).last_hidden_state for encoder in encoders if encoder is not None]
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    more = {}
    if len(texts) > 1:
        more = {"added_cond_kwargs": {"text_embeds": texts[1][:, 0], "time_ids": torch.tensor([[8, 8, 0, 0, 8, 8]])}}
    return [*texts, parts["unet"](noise, torch.tensor([500]), torch.cat(texts, dim=-1), **more).sample]
