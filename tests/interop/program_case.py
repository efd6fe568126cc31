"""Files of programs built on sd-scripts, in their formats, and functions to import them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from PIL import Image

from dreambooth.interop.input_kind import RecognizedInput, recognize_input
from dreambooth.interop.translation import Translation
from dreambooth.settings.arguments import split_arguments


def make_images(folder: Path, n: int = 3) -> Path:
    folder.mkdir(parents=True)
    for number in range(n):
        Image.new("RGB", (96, 64), (40 * number, 80, 120)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"fen, lamp {number}")
    return folder


def check_translation(result: Translation, expected: Mapping[str, Any]) -> None:
    """Compare with expected parameters of sd-scripts; None stands for one that must be missing or empty."""
    for key, value in expected.items():
        found = result.values.get(key)
        if key.endswith("_args"):
            assert split_arguments(found)[0] == split_arguments(value)[0], key
        elif value is None:
            assert not found, (key, found)
        else:
            assert found == value, (key, found)


def import_data(folder: Path, data: Any, name: str = "given.json") -> RecognizedInput:
    path = folder / name
    path.write_text(tomlkit.dumps(data) if name.endswith(".toml") else json.dumps(data), encoding="utf-8")
    return recognize_input(path)


# Fields of the LoRA page, with values of most kinds that its versions saved: texts for numbers, "" and 0 for "not set".
LORA_PAGE: dict[str, Any] = {
    "LoRA_type": "Standard", "model_list": "custom", "pretrained_model_name_or_path": "D:/models/base.safetensors",
    "v2": False, "v_parameterization": False, "sdxl": False, "max_resolution": "192,128", "train_batch_size": 2,
    "epoch": "4", "max_train_epochs": "", "max_train_steps": "", "learning_rate": "0.0003", "unet_lr": "2e-4",
    "text_encoder_lr": 1e-4, "lr_scheduler": "cosine", "lr_warmup": "20", "lr_scheduler_num_cycles": "",
    "lr_scheduler_power": "", "optimizer": "AdamW", "optimizer_args": "weight_decay=0.05, betas=(0.9, 0.98)",
    "network_dim": 12, "network_alpha": 6, "network_dropout": 0, "conv_dim": 4, "conv_alpha": 2, "unit": 1,
    "factor": -1, "down_lr_weight": "", "block_dims": "", "rank_dropout": 0, "module_dropout": 0.0, "seed": "",
    "mixed_precision": "no", "save_precision": "fp16", "clip_skip": "2", "keep_tokens": "1", "min_snr_gamma": 4,
    "noise_offset_type": "Multires", "noise_offset": 0.04, "adaptive_noise_scale": 0.01,
    "multires_noise_iterations": 6, "multires_noise_discount": 0.25, "enable_bucket": True, "bucket_reso_steps": 64.0,
    "min_bucket_reso": 64, "max_bucket_reso": 512, "bucket_no_upscale": True, "caption_extension": ".txt",
    "shuffle_caption": True, "color_aug": False, "flip_aug": True, "max_token_length": "150", "xformers": "sdpa",
    "additional_parameters": "", "prior_loss_weight": 1.0, "gradient_accumulation_steps": 1.0,
    "gradient_checkpointing": True, "max_timestep": 1000, "min_timestep": 0, "stop_text_encoder_training_pct": 0,
    "sample_every_n_steps": 0, "sample_every_n_epochs": 2, "sample_sampler": "ddim", "save_every_n_epochs": 0,
    "sample_prompts": "a fen by day --n mud --s 9\na fen by night", "output_dir": "D:/out", "output_name": "fen",
    "logging_dir": "D:/logs", "wandb_api_key": "", "cache_latents": True, "reg_data_dir": "", "train_data_dir": "",
}  # fmt: skip


def page(changes: Mapping[str, Any], base: Mapping[str, Any] = LORA_PAGE) -> dict[str, Any]:
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def easy_file(folder: Path | str, **changes: dict[str, Any]) -> dict[str, Any]:
    """Sections of its pages. ``changes``: parameters by section, with __ before the group (network_args__args)."""
    data: dict[str, Any] = {
        "subsets": [
            {"name": "one", "image_dir": str(folder), "num_repeats": 4, "caption_extension": ".txt", "keep_tokens": 1,
             "shuffle_caption": True, "flip_aug": False, "is_reg": False},
        ],
        "train_mode": {"train_mode": "lora"},
        "general_args": {
            "args": {"pretrained_model_name_or_path": "m.safetensors", "mixed_precision": "no", "seed": 31,
                     "clip_skip": 2, "max_token_length": 225, "max_train_epochs": 3, "sdpa": True,
                     "cache_latents": True, "max_data_loader_n_workers": 1},
            "dataset_args": {"resolution": [160, 128], "batch_size": 2},
        },
        "network_args": {"args": {"network_dim": 16, "network_alpha": 8.0, "min_timestep": 0}},
        "optimizer_args": {"args": {
            "optimizer_type": "AdamW", "lr_scheduler": "cosine", "learning_rate": 3e-4, "text_encoder_lr": 1e-4,
            "warmup_ratio": 0.1, "optimizer_args": {"weight_decay": "0.2", "betas": "0.9,0.99"},
        }},
        "saving_args": {"args": {"output_dir": "out", "output_name": "fen", "save_every_n_epochs": 1}},
        "bucket_args": {"dataset_args": {"enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 512,
                                         "bucket_reso_steps": 32}},
        "noise_args": {}, "sample_args": {}, "logging_args": {},
    }  # fmt: skip
    for name, values in changes.items():
        section, _, group = name.partition("__")
        data.setdefault(section, {}).setdefault(group, {}).update(values)
    return data


RUN: dict[str, Any] = {
    "model_train_type": "sd-lora", "pretrained_model_name_or_path": "./sd-models/m.safetensors",
    "train_data_dir": "./train/fen", "resolution": "128,128", "enable_bucket": True, "min_bucket_reso": 64,
    "max_bucket_reso": 256, "max_train_epochs": 4, "train_batch_size": 1, "learning_rate": "2e-4",
    "unet_lr": "1e-4", "text_encoder_lr": "1e-5", "lr_scheduler": "cosine_with_restarts",
    "lr_scheduler_num_cycles": 2, "optimizer_type": "AdamW", "network_module": "networks.lora", "network_dim": 24,
    "network_alpha": 12, "caption_extension": ".txt", "max_token_length": 255, "seed": 77, "clip_skip": 2,
    "mixed_precision": "no", "log_with": "tensorboard", "output_dir": "./output", "vae": "", "noise_offset": 0,
}  # fmt: skip
