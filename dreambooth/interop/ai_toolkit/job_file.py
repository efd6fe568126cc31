"""A job of ai-toolkit: its training process, with ai-toolkit's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.nested_values import NestedValues

_TRAINERS = ("sd_trainer", "ui_trainer", "diffusion_trainer", "textual_inversion_trainer")
_MODELS = {"sd1": "Stable Diffusion 1.5", "sd15": "Stable Diffusion 1.5", "sd1.5": "Stable Diffusion 1.5",
           "sd2": "Stable Diffusion 2", "sd21": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}  # fmt: skip
_MODEL_FLAGS = ("is_v2", "is_xl", "is_v_pred")
_PARTS = ("network", "train", "model", "save", "sample", "logging")

# What ai-toolkit trains with where a job does not say otherwise.
DEFAULTS: dict[str, Any] = {
    "network.type": "lora", "network.linear_alpha": 1.0, "network.lokr_full_rank": True, "network.lokr_factor": -1,
    "network.dropout": 0, "network.transformer_only": True, "network.split_multistage_loras": True,
    "train.noise_scheduler": "ddpm", "train.content_or_style": "balanced", "train.steps": 1000, "train.lr": 1e-6,
    "train.optimizer": "adamw", "train.lr_scheduler": "constant", "train.min_denoising_steps": 0,
    "train.max_denoising_steps": 999, "train.batch_size": 1, "train.dtype": "fp32", "train.train_unet": True,
    "train.train_text_encoder": False, "train.train_refiner": True, "train.noise_offset": 0,
    "train.gradient_checkpointing": True, "train.max_grad_norm": 1.0, "train.reg_weight": 1.0,
    "train.gradient_accumulation_steps": 1, "train.gradient_accumulation": 1, "train.loss_type": "mse",
    "train.loss_target": "noise", "train.noise_multiplier": 1.0, "train.target_noise_multiplier": 1.0,
    "train.img_multiplier": 1.0, "train.noisy_latent_multiplier": 1.0, "train.latent_multiplier": 1.0,
    "train.pred_scaler": 1.0, "train.num_train_timesteps": 1000, "train.optimal_noise_pairing_samples": 1,
    "model.compile": False, "model.block_compile": False, "train.compile": False,
    "train.cfg_scale": 1.0, "train.timestep_type": "sigmoid", "save.save_every": 1000, "save.dtype": "float16",
    "save.save_format": "safetensors",
    "sample.sampler": "ddpm", "sample.sample_every": 100, "sample.width": 512, "sample.height": 512, "sample.seed": 0,
    "sample.guidance_scale": 7, "sample.sample_steps": 20,
}  # fmt: skip
DATASET_DEFAULTS: dict[str, Any] = {
    "type": "image", "caption_ext": ".txt", "resolution": 512, "scale": 1.0, "buckets": True, "is_reg": False,
    "network_weight": 1.0, "token_dropout_rate": 0, "caption_dropout_rate": 0, "keep_tokens": 0, "mask_min_value": 0,
    "num_repeats": 1, "loss_multiplier": 1.0, "num_frames": 1, "random_triggers_max": 1,
    "shrink_video_to_frames": True, "num_controls_from_same_folder": 1, "full_size_control_images": True,
    "replay_transforms": True, "guidance_type": "targeted",
}  # fmt: skip


class Job:
    """The training process of a job."""

    def __init__(self, name: str, process: Mapping[str, Any], others: list[str]) -> None:
        self.name = name
        self.values = NestedValues({key: value for key, value in process.items() if key != "datasets"}, DEFAULTS)
        self.datasets: Any = process.get("datasets")
        self.has_network = isinstance(process.get("network"), Mapping)
        self.others = others  # types of further processes

    def filled(self, text: str) -> str:
        """The text with [name] replaced by the name of the job."""
        return text.replace("[name]", self.name)


def is_job(data: Any) -> bool:
    """Whether these are the values of a job of ai-toolkit, or of one of its training processes."""
    if not isinstance(data, Mapping):
        return False
    config = data.get("config")
    if isinstance(config, Mapping):
        return "process" in config or "job" in data
    return data.get("type") in _TRAINERS and not {"train", "datasets", "model"}.isdisjoint(data)


def read_job(path: Path, data: Mapping[str, Any]) -> Job:
    """The first training process. UserError for other kinds of jobs, and for models that can't be trained here."""
    config = data.get("config")
    config = config if isinstance(config, Mapping) else {"process": [data]}
    rows = config.get("process")
    processes = [row for row in (rows if isinstance(rows, list) else [rows]) if isinstance(row, Mapping)]
    trainings = [row for row in processes if str(row.get("type", "")).lower() in _TRAINERS]
    kinds = [str(row.get("type", "without a type")) for row in processes]
    if not trainings:
        what = f"process type {', '.join(kinds)}" if kinds else f"job = {data.get('job')}"
        raise UserError(
            f"{path}: {what}: this ai-toolkit configuration can't be imported, as it does not train a model or LoRA "
            f"with a dataset. Choose one whose process has the type {_TRAINERS[0]} or {_TRAINERS[2]}."
        )
    process = trainings[0]
    others = [str(row.get("type")) for row in processes if row is not process]
    job = Job(str(config.get("name") or ""), process, others)
    _require_known_model(path, job)
    return job


def describe_model(job: Job) -> str:
    return _MODELS[_architecture(job)]


def is_sdxl(job: Job) -> bool:
    return _architecture(job) == "sdxl"


def _architecture(job: Job) -> str:
    """The architecture, which older configurations say with flags; a tag after a colon does not matter."""
    named = job.values.text("model.arch").lower().partition(":")[0]
    if named:
        return named
    flags = [name.partition(".")[2] for name in job.values.unread() if name.startswith("model.is_")]
    active = [flag for flag in flags if flag not in _MODEL_FLAGS and job.values.flag(f"model.{flag}")]
    if active:
        return {"is_v3": "sd3"}.get(active[0], active[0].removeprefix("is_"))
    return "sdxl" if job.values.flag("model.is_xl") else "sd2" if job.values.flag("model.is_v2") else "sd1"


def _require_known_model(path: Path, job: Job) -> None:
    architecture = _architecture(job)
    if architecture not in _MODELS:
        name = job.values.text("model.name_or_path")
        raise UserError(
            f"{path}: model {architecture}{f' ({name})' if name else ''}: this ai-toolkit configuration can't be "
            "imported, as only Stable Diffusion 1.5, 2 and XL are supported."
        )
    if job.values.text("train.noise_scheduler").lower() == "flowmatch":
        raise UserError(
            f"{path}: train.noise_scheduler = flowmatch: this ai-toolkit configuration can't be imported, as flow "
            "matching is not supported for Stable Diffusion 1.5, 2 and XL."
        )
