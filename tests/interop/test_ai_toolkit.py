"""Jobs of ai-toolkit, in YAML and JSON: imported with its defaults, and what is lost is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.interop.ai_toolkit.job_file import DEFAULTS
from dreambooth.interop.ai_toolkit.timesteps import import_timesteps
from dreambooth.interop.input_kind import RecognizedInput, recognize_input
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.settings import Settings, parse


def make_images(folder: Path, **captions: str | None) -> Path:
    """Images with caption files; None: without one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, caption) in enumerate((captions or {"one": None, "two": None}).items()):
        Image.new("RGB", (64, 64), (20 * number, 0, 0)).save(folder / f"{name}.png")
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption)
    return folder


def job(process: dict[str, Any], name: str = "my_lora") -> dict[str, Any]:
    defaults = {"type": "sd_trainer", "model": {"name_or_path": "x/sd"}, "network": {"type": "lora", "linear": 16}}
    return {"job": "extension", "config": {"name": name, "process": [{**defaults, **process}]}}


def read(tmp_path: Path, data: Any) -> RecognizedInput:
    (tmp_path / "job.json").write_text(json.dumps(data), encoding="utf-8")
    return recognize_input(tmp_path / "job.json")


def unsupported(found: RecognizedInput) -> str:
    return "\n".join(found.unsupported)


YAML = """
---
job: extension
config:
  name: "toy_v1"
  process:
    - type: 'sd_trainer'
      training_folder: "output"
      device: cuda:0
      trigger_word: "zwx"
      network:
        type: "lora"
        linear: 16
        linear_alpha: 8
      save: {dtype: float16, save_every: 250, max_step_saves_to_keep: 4}
      datasets:
        - folder_path: "images"
          caption_ext: "txt"
          caption_dropout_rate: 0.05
          shuffle_tokens: false  # a comment
          cache_latents_to_disk: true
          resolution: [ 64, 96 ]
          num_repeats: 3
      train:
        batch_size: 2
        steps: 20
        gradient_accumulation_steps: 1
        train_text_encoder: true
        optimizer: "adamw8bit"
        optimizer_params: {weight_decay: 1e-4}
        lr: 1e-4
        min_snr_gamma: 5.0
        noise_offset: 0.05
        dtype: bf16
      model: {name_or_path: "x/sdxl", is_xl: true}
      sample:
        sampler: "euler_a"
        sample_every: 10
        width: 96
        height: 96
        prompts: ["[trigger] by [name]", "a dog"]
        neg: "blurry"
        seed: 42
        guidance_scale: 6
        sample_steps: 25
meta: {name: "[name]"}
"""


@pytest.mark.parametrize("name", ["job.yaml", "job.yml", "job.txt"])
def test_a_job_in_yaml(tmp_path: Path, name: str) -> None:
    folder = make_images(tmp_path / "images", one="a toy", two="a hat, red")
    (tmp_path / name).write_text(YAML)
    found = recognize_input(tmp_path / name)
    (concept,) = found.concepts
    run = parse(Settings, found.settings)
    assert (concept.instance_data_dir, concept.num_repeats) == (str(folder), 3)
    assert (concept.caption_dropout, concept.shuffle_tags, concept.caption_extension) == (0.05, "off", ".txt")
    plan = make_plan([concept], Settings(resolution=64))
    assert [example.caption for example in plan.examples] == ["zwx a toy", "zwx a hat, red"]
    assert (concept.save_sample_prompt, concept.save_sample_negative_prompt) == ("zwx by toy_v1", "blurry")
    assert (concept.sample_seed, concept.save_guidance_scale, concept.save_infer_steps) == (42, 6, 25)
    assert run.use_lora and (run.lora_unet_rank, run.lora_unet_alpha, run.use_lora_extended) == (16, 8, False)
    assert (run.max_train_steps, run.train_batch_size, run.save_every_steps, run.preview_every_steps) == (
        20,
        2,
        250,
        10,
    )
    assert run.num_train_epochs * 3 >= 20, "3 steps per epoch"
    assert (run.optimizer, run.optimizer_args, run.weight_decay) == ("8bit AdamW", "eps=1e-06", 1e-4)
    assert run.lora_learning_rate == run.lora_txt_learning_rate == 1e-4 and run.stop_text_encoder == 1
    assert (run.resolution, run.bucket_no_upscale, run.mixed_precision) == (96, True, "bf16")
    assert (run.min_snr_gamma, run.offset_noise, run.custom_model_name) == (5, 0.05, "toy_v1")
    assert run.scheduler == "EulerAncestralDiscrete"
    assert "64, 96" in unsupported(found) and "1 more prompt" in unsupported(found)


TRIGGERS = {
    "in none": ({"a": "a toy", "b": None}, "zwx", ["zwx a toy", "zwx"]),
    "in all": ({"a": "a zwx toy", "b": "zwx, red"}, "zwx", ["a zwx toy", "zwx, red"]),
    "in some": ({"a": "a zwx toy", "b": "red"}, "zwx", ["a zwx toy", "zwx, red"]),
    "placeholders": ({"a": "a [trigger] toy", "b": "[trigger], red"}, "zwx", ["a zwx toy", "zwx, red"]),
    "no word": ({"a": "a toy"}, None, ["a toy"]),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_trigger_words(tmp_path: Path, name: str) -> None:
    captions, word, wanted = TRIGGERS[name]
    make_images(tmp_path / "images", **captions)
    found = read(tmp_path, job({"trigger_word": word, "datasets": [{"folder_path": "images"}]}))
    plan = make_plan(found.concepts, Settings(resolution=64))
    assert [example.caption for example in plan.examples] == wanted
    assert ("comma" in unsupported(found)) == (name == "in some")


def test_datasets(tmp_path: Path) -> None:
    first, second = make_images(tmp_path / "a"), make_images(tmp_path / "b/below")
    (tmp_path / "masks").mkdir()
    (tmp_path / "captions.json").write_text(json.dumps({str(first / "one.png"): {"caption": "listed"}}))
    rows = [
        {"folder_path": str(tmp_path / "b"), "is_reg": True},
        {"folder_path": str(first), "default_caption": "a [trigger] toy", "trigger_word": "zwx", "flip_x": True,
         "token_dropout_rate": 0.1, "keep_tokens": 2, "mask_path": "masks", "mask_min_value": 0.2},
        {"dataset_path": "captions.json"},
        {"folder_path": "gone"},
    ]  # fmt: skip
    found = read(tmp_path, job({"datasets": rows, "train": {"reg_weight": 0.5}}))
    one, listed, regular = found.concepts
    assert [concept.regularization for concept in found.concepts] == [False, False, True]
    assert (one.default_caption, one.hflip, one.tag_dropout, one.keep_tokens) == ("a zwx toy", "on", 0.1, 2)
    assert one.mask_data_dir == str(tmp_path / "masks") and not listed.mask_data_dir
    assert listed.metadata_file == str(tmp_path / "captions.json")
    assert [example.caption for example in make_plan([listed], Settings(resolution=64)).examples] == ["listed"]
    assert Path(regular.instance_data_dir) == second.parent and regular.subfolders
    assert (found.settings["prior_loss_weight"], found.settings["unmasked_weight"]) == (0.5, 0.2)
    assert found.settings["masked_loss"] and "dataset 4" in unsupported(found) and "gone" in unsupported(found)


SETTINGS = {
    "defaults": ({}, {"max_train_steps": 1000, "mixed_precision": "no", "lora_unet_alpha": 1,
                      "lora_learning_rate": 1e-6, "optimizer_args": "eps=1e-06", "weight_decay": 0.01,
                      "stop_text_encoder": 0, "save_every_steps": 1000, "lr_scheduler": "constant"}),
    "convolutions": ({"network": {"type": "lora", "linear": 8, "conv": 4, "conv_alpha": 2}},
                     {"use_lora_extended": True, "lora_conv_rank": 4, "lora_conv_alpha": 2}),
    "rank": ({"network": {"rank": 8, "alpha": 4, "dropout": 0.1}},
             {"lora_unet_rank": 8, "lora_unet_alpha": 4, "lora_unet_dropout": 0.1}),
    "compiled": ({"model": {"block_compile": True}}, {"torch_compile": True, "allow_tf32": True}),
    "lokr": ({"network": {"type": "lokr", "lokr_factor": 8}},
             {"lora_type": "LoKr", "lokr_factor": 8, "lora_unet_rank": 1024, "lora_unet_alpha": 0}),
    "small lokr": ({"network": {"type": "lokr", "lokr_full_rank": False, "linear": 4, "linear_alpha": 4}},
                   {"lora_type": "LoKr", "lora_unet_rank": 4, "lora_unet_alpha": 4}),
    "dora": ({"network": {"type": "dora", "linear": 4}}, {"lora_type": "LoRA", "lora_dora": True}),
    "full training": ({"network": None, "train": {"lr": 1e-5, "ema_config": {"use_ema": True, "ema_decay": 0.99}}},
                      {"use_lora": False, "learning_rate": 1e-5, "use_ema": True, "ema_decay": 0.99,
                       "half_model": True}),
    "accumulated batches": ({"train": {"steps": 100, "gradient_accumulation_steps": 4}, "save": {"save_every": 20}},
                            {"gradient_accumulation_steps": 4, "max_train_steps": 25, "save_every_steps": 5}),
    "whole steps": ({"train": {"steps": 100, "gradient_accumulation": 4}, "save": {"save_every": 20}},
                    {"gradient_accumulation_steps": 4, "max_train_steps": 100, "save_every_steps": 20}),
    "prodigy": ({"train": {"optimizer": "Prodigy", "lr": 1e-4, "optimizer_params": {"d_coef": 2}}},
                {"optimizer": "Prodigy", "lora_learning_rate": 1}),
    "lion": ({"train": {"optimizer": "lion8bit"}}, {"optimizer": "8bit Lion", "weight_decay": 0}),
    "adam": ({"train": {"optimizer": "adam"}}, {"optimizer": "Torch AdamW", "weight_decay": 0}),
    "cosine": ({"train": {"lr_scheduler": "cosine", "steps": 50, "lr_scheduler_params": {"eta_min": 1e-7}}},
               {"lr_scheduler": "cosine_annealing", "lr_scale_pos": 1, "learning_rate_min": 1e-7}),
    "restarts": ({"train": {"lr_scheduler": "cosine_with_restarts", "steps": 50, "lr_scheduler_params": {"T_0": 25}}},
                 {"lr_scheduler": "cosine_annealing_with_restarts", "lr_scale_pos": 0.5}),
    "warm-up": ({"train": {"lr_scheduler": "constant_with_warmup", "lr_scheduler_params": {"num_warmup_steps": 50}}},
                {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 50}),
    "timesteps": ({"train": {"min_denoising_steps": 100, "max_denoising_steps": 900}},
                  {"min_timestep": 100, "max_timestep": 900}),
    "all timesteps": ({}, {"min_timestep": 0, "max_timestep": 1000, "timestep_sampling": "uniform"}),
    "absolute error": ({"train": {"loss_type": "mae"}}, {"loss_type": "l1"}),
    "no samples": ({"train": {"disable_sampling": True}}, {"preview_every_steps": 0, "save_preview_every": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tmp_path: Path, name: str) -> None:
    given, wanted = SETTINGS[name]
    settings = read(tmp_path, job(given)).settings
    assert {key: settings[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ({"train": {"optimizer": "automagic"}}, "automagic"), ({"train": {"lr_scheduler": "step"}}, "step"),
        ({"train": {"content_or_style": "style"}}, "content_or_style"), ({"train": {"snr_gamma": 5}}, "snr_gamma"),
        ({"train": {"timestep_type": "weighted"}}, "weighted: ai-toolkit uses it for flow-matching models only"),
        ({"train": {"timestep_type": "four_step"}}, "four_step: timesteps are sampled uniformly"),
        ({"train": {"linear_timesteps": True}}, "train.linear_timesteps: no effect"),
        ({"train": {"diff_output_preservation": True}}, "diff_output_preservation"),
        ({"train": {"loss_type": "wavelet"}}, "wavelet"), ({"train": {"noise_scheduler": "lcm"}}, "lcm"),
        ({"train": {"unet_lr": 1e-3}}, "unet_lr"), ({"train": {"gradient_accumulation_steps": -1}}, "= -1"),
        ({"network": {"type": "lora", "network_kwargs": {"only_if_contains": ["x"]}}}, "network_kwargs"),
        ({"network": {"type": "lorm"}}, "lorm"), ({"model": {"name_or_path": "x", "vae_path": "v"}}, "vae_path"),
        ({"save": {"push_to_hub": True}}, "push_to_hub"), ({"embedding": {"trigger": "x"}}, "embeddings are"),
        ({"brand_new": 3}, "brand_new"), ({"train": {"brand_new": 3}}, "train.brand_new"),
        ({"train": {"ema_config": {"use_ema": True}}}, "moving average"),
        ({"datasets": [{"folder_path": "a", "random_crop": True}]}, "random_crop"),
        ({"datasets": [{"folder_path": "a", "control_path": "c"}]}, "control_path"),
        ({"datasets": [{"folder_path": "a", "brand_new": "c"}]}, "brand_new"),
        ({"datasets": [{"folder_path": "a", "mask_path": "gone"}]}, "mask_path"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_named(tmp_path: Path, given: dict[str, Any], reported: str) -> None:
    make_images(tmp_path / "a")
    assert reported in unsupported(read(tmp_path, job(given)))
    assert reported not in unsupported(read(tmp_path, job({"datasets": [{"folder_path": "a"}]})))


@pytest.mark.parametrize(
    ("train", "wanted", "reported"),
    [
        ({}, {"timestep_sampling": "sigmoid", "sigmoid_scale": 1, "resolution_shift": False}, ""),
        ({"timestep_type": "linear"}, {"timestep_sampling": "uniform", "resolution_shift": False}, ""),
        ({"timestep_type": "flux_shift"}, {"timestep_sampling": "uniform", "resolution_shift": True}, "set timestep_s"),
        ({"timestep_type": "weighted"}, {"timestep_sampling": "uniform"}, "same loss weight"),
        ({"timestep_type": "lognorm_blend"}, {"timestep_sampling": "uniform"}, "lognorm_blend"),
        ({"linear_timesteps2": True}, {"timestep_sampling": "uniform"}, "train.linear_timesteps2"),
        ({"max_denoising_steps": 700}, {"timestep_sampling": "sigmoid", "min_timestep": 300}, "cuts the density off"),
    ],
)  # fmt: skip
def test_timesteps_of_flow_matching_models(
    tmp_path: Path, train: dict[str, Any], wanted: dict[str, Any], reported: str
) -> None:
    """Jobs of these models can't be imported yet."""
    report = ImportReport(tmp_path)
    import_timesteps(report, NestedValues({"train": {**train, "noise_scheduler": "flowmatch"}}, DEFAULTS))
    assert {key: report.settings[key] for key in wanted} == wanted
    assert reported in "\n".join(report.unsupported) and bool(report.unsupported) == bool(reported)


@pytest.mark.parametrize(
    ("data", "reported"),
    [
        (job({"model": {"name_or_path": "f", "is_flux": True}}), "model flux"),
        (job({"model": {"name_or_path": "f", "arch": "wan21:t2v"}}), "model wan21"),
        (job({"model": {"name_or_path": "f", "is_v3": True}}), "model sd3"),
        (job({"model": {"name_or_path": "f", "is_vega": True}}), "model vega"),
        (job({"train": {"noise_scheduler": "flowmatch"}}), "flowmatch"),
        (job({"type": "slider"}), "slider"), ({"job": "extract", "config": {"name": "x"}}, "extract"),
        (job({"datasets": [{"folder_path": "gone"}]}), "gone"), (job({"datasets": ["x"]}), "dataset 1"),
    ],
)  # fmt: skip
def test_what_can_not_be_trained_is_refused_by_name(tmp_path: Path, data: Any, reported: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, data)
    text = "\n".join(error.value.problems)
    assert reported in text and "job.json" in text


@pytest.mark.parametrize("arch", ["sd1", "sd15", "sdxl:base", "sd2"])
def test_models_by_their_architecture(tmp_path: Path, arch: str) -> None:
    assert "Stable Diffusion" in unsupported(read(tmp_path, job({"model": {"name_or_path": "x", "arch": arch}})))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('job: extension\nconfig:\n  folder: "C:\\Users\\x"\n', "Use / instead"),
        ("job: extension\nconfig:\n\tname: x\n", "spaces instead of tabs"),
        ("job: extension\nconfig: [\n", "line 3"),
        ("just a text", "not recognized"),
    ],
)
def test_invalid_yaml(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError, match=r"job\.yaml") as error:
        recognize_input(tmp_path / "job.yaml")
    assert hint in str(error.value)


def test_one_process_alone_and_several(tmp_path: Path) -> None:
    process = {"type": "diffusion_trainer", "model": {"name_or_path": "x"}, "train": {"steps": 5}}
    assert read(tmp_path, process).settings["max_train_steps"] == 5
    several = {"job": "extension", "config": {"name": "x", "process": [{"type": "logger"}, process]}}
    assert "logger" in unsupported(read(tmp_path, several))
