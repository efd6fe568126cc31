"""LoRA files: diffusers loads them without unexpected keys, and all ways to apply them give the same image."""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.adapters import Lora
from dreambooth.checkpoints.lora import WeightedLora, apply_lora, lora_name
from dreambooth.checkpoints.lora_file import Adapters, read_lora, write_lora
from dreambooth.checkpoints.modules import Modules, load_modules
from dreambooth.checkpoints.single_file import write_checkpoint
from dreambooth.checkpoints.verify import verify_checkpoint, verify_lora
from dreambooth.errors import UserError

METADATA = {"ss_base_model_version": "sd_v1", "ss_network_dim": "4", "modelspec.title": "a test", "note": "ü"}


def random_lora(modules: Modules, rank: int = 4, alpha: float = 2.0, size: float = 0.2) -> Adapters:
    """Adapters for every target of both components, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for component, module in (("unet", modules.denoiser), ("text_encoder", modules.parts["text_encoder"])):
        for path, layer in modules.family.adapter_targets(component, module).items():
            out, inner, *kernel = layer.weight.shape
            down = torch.randn(rank, inner, *kernel, generator=generator) * size
            up = torch.randn(out, rank, *kernel, generator=generator) * size
            name = lora_name(modules.layout, component, path)
            weights[name] = Lora({"lora_down.weight": down, "lora_up.weight": up}, alpha)
    return weights


@pytest.fixture
def modules(mini) -> Modules:
    return load_modules(mini.working)


@pytest.fixture
def lora(modules, tmp_path) -> Path:
    path = tmp_path / "a lora.safetensors"
    write_lora(path, random_lora(modules), METADATA)
    return path


def test_targets_are_the_modules_of_kohyas_trainer(modules, key_table):
    """SD1 has 16 transformer blocks in the UNet with 12 modules each, and 6 per layer in the text encoder."""
    targets = modules.family.adapter_targets("unet", modules.denoiser)
    unet = {lora_name(modules.layout, "unet", path) for path in targets}
    assert len(unet) == 16 * 12
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0" in unet
    assert "lora_unet_mid_block_attentions_0_proj_in" in unet
    assert "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj" in unet
    n_layers = modules.parts["text_encoder"].config.num_hidden_layers
    targets = modules.family.adapter_targets("text_encoder", modules.parts["text_encoder"])
    text = {lora_name(modules.layout, "text_encoder", path) for path in targets}
    assert text == {
        f"lora_te_text_model_encoder_layers_{layer}_{part}"
        for layer in range(n_layers)
        for part in ("mlp_fc1", "mlp_fc2", *(f"self_attn_{x}_proj" for x in ("q", "k", "v", "out")))
    }


def test_read_returns_what_was_written(modules, lora):
    weights, file = random_lora(modules), read_lora(lora)
    assert file.weights.keys() == weights.keys()
    for name, written in weights.items():
        read = file.weights[name]
        assert read.kind == "LoRA" and read.alpha == 2.0 and read.rank == 4
        assert all(torch.equal(read.tensors[part], tensor.half()) for part, tensor in written.tensors.items())
    assert METADATA.items() <= file.metadata.items()


def test_hashes_equal_those_of_webuis(lora):
    """sha256 of the data after the header; the same for a file written by the safetensors library."""
    content = lora.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    digest = hashlib.sha256(content[8 + length :]).hexdigest()
    assert metadata["sshs_model_hash"] == digest
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"
    with safetensors.safe_open(lora, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    theirs = safetensors.torch.save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    (length,) = struct.unpack("<Q", theirs[:8])
    assert hashlib.sha256(theirs[8 + length :]).hexdigest() == digest
    assert len(metadata["sshs_legacy_hash"]) == 8


def test_diffusers_our_modules_and_the_merged_checkpoint_generate_the_same_image(mini, modules, lora, tmp_path, caplog):
    """The same prompt, seed and sampler: the LoRA loaded by diffusers, applied by us, merged into a checkpoint."""
    pytest.importorskip("peft", reason="diffusers loads LoRAs through peft, which is not installed")
    from diffusers import StableDiffusionPipeline

    plain = _generate(_pipeline(mini))
    with_diffusers = _pipeline(mini)
    caplog.set_level(logging.WARNING)
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).propagate = True
    with_diffusers.load_lora_weights(str(lora))
    loaded = {name for name, _ in with_diffusers.unet.named_parameters() if ".lora_A." in name}
    loaded_te = {name for name, _ in with_diffusers.text_encoder.named_parameters() if ".lora_A." in name}
    assert len(loaded) + len(loaded_te) == len(read_lora(lora).weights)
    assert not [record for record in caplog.records if "key" in record.getMessage().lower()]
    theirs = _generate(with_diffusers)

    assert apply_lora(modules, read_lora(lora)) == len(read_lora(lora).weights)
    ours = _pipeline(mini)
    ours.unet, ours.text_encoder = modules.denoiser, modules.parts["text_encoder"]

    out = write_checkpoint(mini, tmp_path / "merged.safetensors", loras=[WeightedLora(lora)])
    merged = StableDiffusionPipeline.from_single_file(
        str(out), config=str(mini.working), local_files_only=True, torch_dtype=torch.float32
    )
    assert numpy.abs(theirs - plain).mean() > 0.005, "the LoRA must be seen"
    assert numpy.abs(_generate(ours) - theirs).max() < 1e-3
    assert numpy.abs(_generate(merged) - theirs).max() < 0.02  # the checkpoint's weights are rounded to fp16

    found = verify_checkpoint(out, mini)
    assert found.ok and found.n_changed == len(read_lora(lora).weights) and found.max_change > 0.01


def test_weights_scale_and_several_loras_add_up(mini, lora, tmp_path, read_all):
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    adapter = read_lora(lora).weights["lora_unet_mid_block_attentions_0_proj_in"]
    before = read_all(write_checkpoint(mini, tmp_path / "plain.safetensors"))[key].float()
    out = write_checkpoint(
        mini, tmp_path / "out.safetensors", loras=[WeightedLora(lora, 0.5), WeightedLora(lora, -0.25, 0)]
    )
    expected = adapter.apply(before, 0.25).half()
    assert torch.allclose(read_all(out)[key], expected, atol=1e-3)


def test_nan_and_infinity_are_never_written(mini, lora, tmp_path):
    with pytest.raises(UserError, match=rf"{lora.name} leads to NaN or infinite values"):
        write_checkpoint(mini, tmp_path / "out.safetensors", loras=[WeightedLora(lora, float("nan"))])
    assert not list(tmp_path.glob("*out*"))


def _file_with(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    safetensors.torch.save_file(tensors, path, metadata or None)
    return path


def _pair(name: str, rank: int = 2, inner: int = 32, out: int = 32) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_down.weight": torch.ones(rank, inner), f"{name}.lora_up.weight": torch.ones(out, rank)}


MID = "lora_unet_mid_block_attentions_0_proj_in"
CROSS = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
TE2 = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
NO_LORAS = {
    "checkpoint": ({"model.diffusion_model.out.2.bias": torch.ones(4)}, "is not a LoRA"),
    "GLoRA": ({f"{MID}.a1.weight": torch.ones(2, 2)}, "is GLoRA, which is not supported"),
    "OFT": ({f"{MID}.oft_blocks": torch.ones(2, 2, 2)}, "is OFT, which is not supported"),
    "unknown part": ({**_pair(MID), f"{MID}.magic": torch.ones(1)}, r"unsupported kind \(it has .*magic"),
    "half a pair": ({f"{MID}.lora_up.weight": torch.ones(2, 2)}, "mid_block_attentions_0_proj_in has lora_up.weight"),
    "ranks that differ": ({**_pair(MID), f"{MID}.lora_up.weight": torch.ones(32, 3)}, "don't match"),
    "no ranks": ({f"{MID}.lora_down.weight": torch.ones(()), f"{MID}.lora_up.weight": torch.ones(2)}, "is damaged"),
    "a core and no matrices": (
        {f"{MID}.lora_{x}.weight": torch.ones(2) for x in ("down", "mid", "up")},
        "don't match",
    ),
    "two scales": ({**_pair(MID), f"{MID}.alpha": torch.ones(2)}, "is damaged"),
    "empty": ({**_pair(MID), f"{MID}.alpha": torch.ones(0)}, "is damaged"),
    "NaN": (
        {**_pair(CROSS), **_pair(MID), f"{MID}.lora_up.weight": torch.full((32, 2), torch.nan)},
        rf"NaN or infinite values in 1 of 2 modules \({MID}\)",
    ),
    "infinite": ({**_pair(MID), f"{MID}.alpha": torch.tensor(torch.inf)}, "NaN or infinite values in 1 of 1 module"),
    "DoRA magnitudes": (
        {**_pair(MID), f"{MID}.dora_scale": torch.ones(3, 1)},
        r"is damaged: the DoRA magnitudes of .* have the shape \(3, 1\), which fits neither its 32 rows nor",
    ),
    "broken metadata": (_pair(MID), r"lora_adapter_metadata\) that is not JSON"),
    "odd metadata": (_pair(MID), r"invalid lora_adapter_metadata"),
}


@pytest.mark.parametrize("what", NO_LORAS)
def test_other_files_are_refused_in_one_line(what, tmp_path):
    tensors, expected = NO_LORAS[what]
    metadata = {"broken metadata": "{", "odd metadata": '{"unet.lora_alpha": "much"}'}.get(what, "{}")
    with pytest.raises(UserError, match=expected) as refusal:
        read_lora(_file_with(tmp_path / "x.safetensors", tensors, lora_adapter_metadata=metadata))
    assert "\n" not in str(refusal.value) and "x.safetensors" in str(refusal.value)


OTHER_MODELS = {
    "unknown name": (_pair("lora_unet_nowhere_to_q"), {}, r"not found in this model \(lora_unet_nowhere_to_q\)"),
    "other size": (_pair(MID, inner=640, out=640), {}, "1 of 1 module of the wrong size for this model"),
    "SDXL by names": (_pair(TE2), {}, "was made for SDXL"),
    "SDXL by size": (_pair(CROSS, inner=2048), {}, "was made for SDXL"),
    "SD2 by metadata": (_pair(CROSS, inner=3), {"ss_base_model_version": "sd_v2_v"}, "made for Stable Diffusion 2"),
    "FLUX": (_pair("lora_unet_double_blocks_0_img_attn_proj"), {}, "was made for FLUX"),
    "two names": (
        _pair(MID, inner=80, out=80) | _pair("unet.middle_block.1.proj_in", inner=80, out=80),
        {},
        "has two adapters for mid_block",
    ),
}


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_a_lora_of_another_family_is_refused_with_its_family_and_changes_nothing(mini, modules, tmp_path, what):
    tensors, metadata, expected = OTHER_MODELS[what]
    path = _file_with(tmp_path / "x.safetensors", tensors, **metadata)
    before = {name: value.clone() for name, value in modules.denoiser.state_dict().items()}
    with pytest.raises(UserError, match=expected):
        apply_lora(modules, read_lora(path))
    assert all(torch.equal(value, before[name]) for name, value in modules.denoiser.state_dict().items())
    with pytest.raises(UserError, match=expected):
        write_checkpoint(mini, tmp_path / "out.safetensors", loras=[WeightedLora(path)])
    assert not (tmp_path / "out.safetensors").exists()
    assert not verify_lora(path, mini).ok


def _pipeline(model):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(model.working, local_files_only=True, torch_dtype=torch.float32)


def _generate(pipeline) -> numpy.ndarray:
    """One image, (H, W, 3) in 0..1."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    return pipeline("a red star", num_inference_steps=4, generator=generator, output_type="np").images[0]
