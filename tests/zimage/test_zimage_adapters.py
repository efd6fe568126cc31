"""LoRAs of Z-Image: our spelling and those of other programs, and the tools."""

from __future__ import annotations

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.inspection import inspect
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.lora_tools import make_lora
from dreambooth.cli import main
from tests.zimage.files import random_lora, tensors_of


@pytest.mark.parametrize("form", ["kohya, fused", "kohya, split", "diffusers"])
def test_loras_of_other_programs_change_the_same_weights(tmp_path, model, form):
    own = random_lora(tmp_path / "own.safetensors", model)
    weights = {}
    for name, adapter in read_lora(own).weights.items():
        path = name.removeprefix("diffusion_model_")
        if form == "diffusers":
            weights[f"transformer.{path}".replace("_", ".", 3)] = adapter
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
    write_lora(tmp_path / "other.safetensors", weights, {}, torch.float32)
    assert read_lora(tmp_path / "other.safetensors").made_for == "Z-Image"
    made = [
        tensors_of(actions.generate_checkpoint(model, loras=[path], precision="fp32")[0])
        for path in (own, tmp_path / "other.safetensors")
    ]
    assert made[0].keys() == made[1].keys()
    assert all(torch.allclose(made[0][key], made[1][key], atol=1e-5) for key in made[0])


def test_loras_are_extracted_resized_and_merged(tmp_path, model, files, capsys):
    own = random_lora(tmp_path / "own.safetensors", model)
    tuned, _ = actions.generate_checkpoint(model, loras=[own], precision="fp32", out=tmp_path / "tuned.safetensors")
    lora, small, both = (tmp_path / f"{name}.safetensors" for name in ("lora", "small", "both"))
    precision = ["--precision", "fp32", "--out"]
    assert main(["lora-extract", "--base", str(files.transformer), "--tuned", str(tuned), "--rank", "2", *precision,
                 str(lora)]) == 0  # fmt: skip
    extracted, expected = read_lora(lora), read_lora(own)
    assert extracted.names == expected.names
    assert main(["lora-resize", str(lora), "--rank", "1", *precision, str(small)]) == 0
    assert main(["lora-merge", "--lora", str(lora), "--lora", str(small), "--lora-weight", "1", "--lora-weight", "-0.5",
                 *precision, str(both)]) == 0  # fmt: skip
    name = "diffusion_model_layers_0_feed_forward_w2"
    delta = [read_lora(path).weights[name].delta(torch.zeros(32, 85)) for path in (own, lora, small, both)]
    assert torch.allclose(delta[0], delta[1], atol=2e-3)
    assert torch.allclose(delta[1] - 0.5 * delta[2], delta[3], atol=1e-4)
    assert inspect(both).family == "Z-Image" and inspect(both).adapters == {"LoRA, rank 3, alpha 3": 14}
    assert inspect(tuned).recognized == "Z-Image, by its tensors"
    capsys.readouterr()
