"""LoRAs of Anima: our spelling and those of other programs, and the tools."""

from __future__ import annotations

import pytest
import torch

from dreambooth import actions
from dreambooth.checkpoints.inspection import inspect
from dreambooth.checkpoints.lora_file import read_lora, write_lora
from dreambooth.checkpoints.lora_tools import make_lora
from dreambooth.cli import main
from dreambooth.models.anima.names import TransformerNames
from dreambooth.tensor_files import write_tensors
from tests.anima import files as anima
from tests.zimage.files import create, is_same, random_lora, tensors_of


def test_loras_of_other_programs_change_the_same_weights(tmp_path, model):
    """kohya's, OneTrainer's with the published prefix, and diffusers' names."""
    own = random_lora(tmp_path / "own.safetensors", model)
    weights = read_lora(own).weights
    names = [key.removeprefix("diffusion_model.").removesuffix(".alpha") for key in tensors_of(own) if "alpha" in key]
    expected = tensors_of(actions.generate_checkpoint(model, loras=[own], precision="fp32")[0])
    for form in ("kohya", "net", "diffusers"):
        renamed = {}
        for name in names:
            (module,) = TransformerNames().to_modules(name)
            other = {"kohya": f"lora_unet_{name.replace('.', '_')}", "net": f"net.{name}"}
            renamed[other.get(form, f"transformer.{module}")] = weights[f"diffusion_model_{name.replace('.', '_')}"]
        write_lora(tmp_path / "other.safetensors", renamed, {}, torch.float32)
        assert read_lora(tmp_path / "other.safetensors").made_for == "Anima"
        loras = [tmp_path / "other.safetensors"]
        assert is_same(tensors_of(actions.generate_checkpoint(model, loras=loras, precision="fp32")[0]), expected)


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


def test_loras_are_extracted_resized_merged_and_inspected(tmp_path, model, files, capsys):
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
    name = "diffusion_model_blocks_0_mlp_layer2"
    delta = [read_lora(path).weights[name].delta(torch.zeros(36, 72)) for path in (own, lora, small, both)]
    assert torch.allclose(delta[0], delta[1], atol=2e-3)
    assert torch.allclose(delta[1] - 0.5 * delta[2], delta[3], atol=1e-4)
    assert inspect(both).family == "Anima" and inspect(both).adapters == {"LoRA, rank 3, alpha 3": 20}
    assert inspect(tuned).recognized == "Anima, by its tensors"
    capsys.readouterr()


def test_weights_in_8_bits_are_dequantized(tmp_path, model, files):
    before = tensors_of(files.transformer)
    key = "net.blocks.0.mlp.layer1.weight"
    scale = before[key].float().abs().amax(dim=1, keepdim=True) / 100
    stored = {**before, key: (before[key].float() / scale).to(torch.float8_e4m3fn)}
    stored[key.replace(".weight", ".weight_scale")] = scale
    write_tensors(tmp_path / "scaled.safetensors", stored)
    scaled = anima.Files(tmp_path / "scaled.safetensors", *files[1:])
    made = tensors_of(actions.generate_checkpoint(create(tmp_path, scaled, "scaled"))[0])
    assert list(made) == list(before) and made[key].dtype == torch.bfloat16
    assert torch.allclose(made[key].float(), before[key].float(), atol=0.07 * before[key].abs().max().item())
