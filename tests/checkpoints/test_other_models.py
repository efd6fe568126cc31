"""Models that can't be trained are refused by their name, in one line, also where they look like a supported family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dreambooth.checkpoints.extraction_plan import plan_extraction
from dreambooth.checkpoints.inspection import inspect
from dreambooth.checkpoints.manifest import UNMAPPED
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.recognition import recognize
from dreambooth.checkpoints.sources import open_source
from dreambooth.errors import UserError
from dreambooth.models.recognition import component_configs
from dreambooth.models.sd.distilled import distillation_of, kind_in
from dreambooth.models.sd.keys import UNET
from dreambooth.models.sd.other_models import describe_folder
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.tensor_files import TensorWriter
from tests.mini_models import make

CONV_IN = UNET + "input_blocks.0.0.weight"


def a(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


# A model of a family, what is added to it, and what it then is.
VARIANTS: dict[str, tuple[str, dict[str, torch.Tensor], str]] = {
    "unCLIP": ("v2x", {UNET + "label_emb.0.0.weight": a(64, 2048), "noise_augmentor.data_mean": a(1, 32)}, "unCLIP"),
    "unCLIP without its embedder": ("v2x", {UNET + "label_emb.0.0.weight": a(64, 1536)}, "unCLIP"),
    "Playground 2.5": ("SDXL", {"edm_mean": a(1, 4, 1, 1), "edm_std": a(1, 4, 1, 1)}, r"a Playground v2.5 model \(EDM"),
    "CosXL": ("SDXL", {"edm_vpred.sigma_max": a(), "v_pred": a(0), "ztsnr": a(0)}, r"a CosXL model \(EDM"),
    "LCM": ("v1x", {UNET + "time_embed.cond_proj.weight": a(16, 256)}, "a latent consistency model"),
    "LCM by its other name": ("SDXL", {UNET + "time_embedding.cond_proj.weight": a(16, 256)}, "a latent consistency"),
    "instruct-pix2pix": ("v1x", {CONV_IN: a(16, 8, 3, 3)}, "an instruct-pix2pix checkpoint"),
    "CosXL Edit and other SDXL editors": ("SDXL", {CONV_IN: a(16, 8, 3, 3)}, "an instruct-pix2pix .* of SDXL"),
    "upscaler": ("v2x", {CONV_IN: a(16, 7, 3, 3)}, "an upscaler checkpoint of Stable Diffusion 2"),
    "depth": ("v2x", {CONV_IN: a(16, 5, 3, 3)}, "a depth-to-image checkpoint of Stable Diffusion 2"),
    "Kolors": ("SDXL", {UNET + "encoder_hid_proj.weight": a(4, 4)}, "a Kolors model"),
    "video": ("SDXL", {UNET + "input_blocks.1.1.time_stack.0.norm1.weight": a(4)}, "a video model"),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_variants_of_a_family(what, tmp_path, read_all):
    kind, added, expected = VARIANTS[what]
    path = make(tmp_path / "a.safetensors", kind)
    safetensors.torch.save_file({**read_all(path), **added}, path)
    with open_source(path) as file, pytest.raises(UserError, match=f"a.safetensors is .*{expected}") as refusal:
        recognize(file, prediction="epsilon")  # a prediction type that is selected doesn't help
    assert "\n" not in str(refusal.value) and "can't be trained here: choose" in str(refusal.value)
    found = inspect(path)
    assert found.kind != "checkpoint" and "can't be trained here" in found.issues[0]


FILES = {
    "double_blocks.0.img_attn.qkv.weight": "a FLUX model",
    "distilled_guidance_layer.in_proj.weight": "a Chroma model",
    "joint_blocks.0.x_block.attn.proj.weight": "a Stable Diffusion 3 model",
    "clip_txt_mapper.weight": "a Stable Cascade model",
    "double_layers.0.attn.w1q.weight": "an AuraFlow model",
    "txtfusion.projector.weight": "a Krea 2 model",
    "model.diffusion_model.txt_norm.weight": "a Qwen-Image model",
    "layers.0.mlp.linear_fc2.weight": "an ERNIE-Image model",
    "mlp_t5.0.weight": "a Hunyuan-DiT model",
    "blocks.0.cross_attn.norm_q.weight": "a Wan model",
    "cap_embedder.0.weight": "a Lumina model",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "a T5 text encoder",
    "model_ema.diffusion_modelinput_blocks00weight": "a checkpoint whose UNet is stored only as EMA weights",
    "first_stage_model.encoder.conv_in.weight": "a VAE, not a checkpoint: .* --vae",
    "unet.down_blocks.0.attentions.0.processor.to_q_lora.down.weight": "a LoRA, not a checkpoint: .*lora_start",
    "<cat-toy>": "a textual inversion embedding, .*folder embeddings",
}


@pytest.mark.parametrize("key", FILES)
def test_files_of_other_kinds(key, tmp_path):
    path = tmp_path / "a.safetensors"
    for prefix in ("", "model.diffusion_model.") if "blocks.0" in key else ("",):
        safetensors.torch.save_file({prefix + key: a(4, 4), prefix + key + ".more": a(4), "x.y": a(1)}, path)
        with open_source(path) as file, pytest.raises(UserError, match=f"a.safetensors is {FILES[key]}"):
            recognize(file)


FOLDERS: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({}, {"scheduler": {"_class_name": "EDMDPMSolverMultistepScheduler"}}, "a Playground"),
    ({}, {"scheduler": {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}}, "a CosXL"),
    ({}, {"scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler"}}, "a flow-matching model"),
    ({}, {"unet": {"time_cond_proj_dim": 256}}, "a latent consistency model"),
    ({"_class_name": "StableUnCLIPImg2ImgPipeline"}, {}, "a Stable Diffusion 2.1 unCLIP model"),
    ({"_class_name": "StableDiffusionInstructPix2PixPipeline"}, {"unet": {"in_channels": 8}}, "an instruct-pix2pix"),
    ({"_class_name": "StableDiffusionUpscalePipeline"}, {"unet": {"in_channels": 7}}, "an upscaler"),
    ({"_class_name": "StableDiffusionDepth2ImgPipeline"}, {"unet": {"in_channels": 5}}, "a depth-to-image model"),
    ({"_class_name": "FluxPipeline"}, {}, "a FLUX model"),
    ({"_class_name": "StableCascadePriorPipeline"}, {}, "a Stable Cascade model"),
    ({"_class_name": "StableDiffusionXLPipeline"}, {"scheduler": {"_class_name": "EulerDiscreteScheduler"}}, None),
    ({"_class_name": "StableDiffusionPipeline"}, {"unet": {"in_channels": 4, "time_cond_proj_dim": None}}, None),
]


@pytest.mark.parametrize(("index", "configs", "expected"), FOLDERS)
def test_diffusers_folders(index, configs, expected):
    found = describe_folder(index, configs)
    assert found is None if expected is None else found is not None and found.startswith(expected)


def test_folders_that_are_no_model(mini, tmp_path):
    """The message names what to choose instead. model_index.json may be missing if the components are there."""
    whole = tmp_path / "around" / "a model"
    whole.parent.mkdir()
    whole.symlink_to(mini.working, target_is_directory=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "b.safetensors").touch()
    (tmp_path / "unet only" / "unet").mkdir(parents=True)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").touch()
    for path, expected in (
        (tmp_path / "around", r"a folder in it has: choose .*a model\.$"),
        (whole / "unet", "is one component of a diffusers model: choose the whole folder, .*a model"),
        (tmp_path / "files", "choose a file in it, such as b.safetensors"),
        (tmp_path / "unet only", "has unet and no vae and no text_encoder"),
        (tmp_path / "lora", "is the folder of a LoRA"),
    ):
        with pytest.raises(UserError, match=expected):
            open_source(path)
    (mini.working / "model_index.json").unlink()
    with open_source(mini.working) as folder:
        assert recognize(folder).family.model_type == "v1x"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sd_xl_turbo_1.0_fp16", "Turbo"), ("dreamshaperXL_v21TurboDPMSDE", "Turbo"), ("SDXLTurbo", "Turbo"),
        ("sdxl_lightning_4step", "Lightning"), ("juggernautXL_v9Rdphoto2Lightning", "Lightning"),
        ("Hyper-SDXL-8steps", "Hyper-SD"), ("photon_v1-LCM", "LCM"), ("model dmd2", "DMD2"), ("x_4steps", "4steps"),
        ("v1-5-pruned-emaonly", ""), ("hyperrealism_v3", ""), ("realistic_100steps", ""), ("non-turbo v2", ""),
        ("ponyDiffusionV6XL", ""), ("film_lcmd", ""),
    ],
)  # fmt: skip
def test_names_of_distilled_models(name, kind):
    assert kind_in(name) == kind


def test_where_a_name_of_a_distilled_model_may_be(mini, tmp_path):
    path = make(tmp_path / "a.safetensors", "v1x")
    with open_tensors(path) as file:
        assert distillation_of(file) == ""
        path.with_suffix(".civitai.info").write_text(json.dumps({"baseModel": "SD 1.5 LCM"}))
        assert distillation_of(file).startswith(
            "a.civitai.info beside it says that it is distilled for few steps (LCM)"
        )
    scheduler = mini.working / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "_class_name": "LCMScheduler"}))
    with open_source(mini.working) as file:
        assert "scheduler_config.json (_class_name) says" in recognize(file).warnings[0]


@pytest.mark.parametrize(("ending", "expected"), [(".crdownload", "a.ckpt.crdownload does"), (".aria2", "still being")])
def test_unfinished_downloads(ending, expected, tmp_path):
    Path(f"{tmp_path / 'a.ckpt'}{ending}").touch()
    with pytest.raises(UserError, match=expected):
        open_source(tmp_path / "a.ckpt")


# Transformer layers of each block with attention, as published.
PRUNED = {
    "SSD-1B": {"input_blocks.4": 2, "input_blocks.5": 2, "input_blocks.7": 4, "input_blocks.8": 4,
               "output_blocks.0": 4, "output_blocks.1": 4, "output_blocks.2": 10,
               "output_blocks.3": 2, "output_blocks.4": 1, "output_blocks.5": 1},
    "Segmind Vega": {"input_blocks.4": 1, "input_blocks.5": 1, "input_blocks.7": 2, "input_blocks.8": 2,
                     "output_blocks.0": 2, "output_blocks.1": 2, "output_blocks.2": 2,
                     "output_blocks.3": 1, "output_blocks.4": 1, "output_blocks.5": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_models_of_sdxl_are_trained_with_their_own_layers(name, key_tables, tmp_path):
    """Each tensor of the UNet is mapped, and the module that diffusers builds has exactly these."""
    table = {key: spec for key, spec in key_tables("sdxl-base").items() if _is_left(key, PRUNED[name])}
    path = tmp_path / "a.safetensors"
    writer = TensorWriter(path, table)
    writer._file.close()
    with open(path, "r+b") as opened:
        opened.truncate(path.stat().st_size + sum(spec.n_bytes for spec in table.values()))
    with open_tensors(path) as file:
        found = recognize(file)
        configs = component_configs(found.family, file)
        copies = plan_extraction(file, found.family, configs, extract_ema=False, dtype=None)
    path.unlink()
    assert "a pruned one of SDXL" in found.warnings[0] and configs["unet"]["mid_block_type"] == "UNetMidBlock2D"
    unet = {copy.key for copy in copies if copy.component == "unet"}
    assert unet == {key for key in table if key.startswith(UNET)}
    assert not [copy.key for copy in copies if copy.component == UNMAPPED and copy.key.startswith(UNET)]
    assert len(dict(SDXL.make_module("unet", configs["unet"]).named_parameters())) == len(unet)


def _is_left(key: str, depths: dict[str, int]) -> bool:
    name = key.removeprefix(UNET)
    if name.startswith(("middle_block.1.", "middle_block.2.")):
        return False
    block, _, layer = name.partition(".1.transformer_blocks.")
    return not layer or int(layer.split(".")[0]) < depths[block]
