"""db_config.json of the old extension, of all its versions from November 2022 on, under today's names.

A setting has the same effect here as there, or a notice says that it has none. Versions are told apart by the keys
that they wrote. The old keys stay in the file, so that the old extension can still read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dreambooth.text import count

_OWN_KEY = "prediction_type"  # in every file that we write, and in none of the old extension

_RENAMED = {
    "lora_text_rank": "lora_txt_rank",
    "min_learning_rate": "learning_rate_min",
    "use_unet": "train_unet",
    "lr_num_cycles": "lr_cycles",
    "debiased_estimation_loss": "debiased_estimation",
    "db_use_lora_extended": "use_lora_extended",
    "total_steps": "revision",
    "num_class_image": "num_class_images",
    "ip_noise_gamma": "input_perturbation",
    "tf32_enable": "allow_tf32",
}
_SAMPLERS = {
    "euler": "EulerDiscrete",
    "euler-ancestral": "EulerAncestralDiscrete",
    "dpm": "DPMSolverMultistep",
}
_INTERVALS = {"save_embedding_every": "save_every_steps", "save_preview_every": "preview_every_steps"}
_ATTENTION = ("flash_attention", "no", "none", "")
_CONCEPT_KEYS = (
    "instance_data_dir", "class_data_dir", "file_prompt_contents", "instance_prompt", "class_prompt",
    "save_sample_prompt", "instance_token", "class_token", "num_class_images", "class_negative_prompt",
    "class_guidance_scale", "class_infer_steps", "save_sample_negative_prompt", "n_save_sample", "sample_seed",
    "save_guidance_scale", "save_infer_steps", "save_sample_template", "max_steps",
)  # fmt: skip

# Keys that name files and counts of the old extension; they say nothing about training.
_BOOKKEEPING = {
    "config_prefix", "discord_webhook_url", "graph_smoothing", "initial_revision", "input_pertubation",
    "lifetime_revision", "log_with", "lora_dir", "model_dir", "model_path", "name", "notification_webhook_url",
    "output_dir", "pretrained_model_name_or_path", "save_class_txt", "save_lora_for_extra_net", "shared_diffusers_path",
    "shuffle_after_epoch", "train_unfrozen", "use_shared_src", "v2", "with_prior_preservation", "working_dir",
    "bucket_counts", "token_counts", "wandb_api_key", "wandb_project",
}  # fmt: skip

# Keys without effect: the values that mean off, and the reason.
_OFF = ("", 0, 0.0, False, None, "none")
_WITHOUT_EFFECT: dict[str, tuple[tuple[Any, ...], str]] = {
    "not_cache_latents": ((False, "", None), "latents are always cached"),
    "cache_latents": ((True,), "latents are always cached"),
    "center_crop": ((True, False, ""), ""),
    "use_cpu": (_OFF, "the device is chosen by the WebUI; on a machine without a GPU training uses the CPU"),
    "noise_scheduler": (("", "DDPM", None), "all its choices add the same noise in training"),
    "deis_train_scheduler": (_OFF, "it adds the same noise in training"),
    "snapshot": (_OFF, "snapshots of the old extension can't be resumed; training starts from the weights in working"),
    "pretrained_vae_name_or_path": (_OFF, "the VAE in working is used. To use another, create the model again with it"),
    "half_lora": (_OFF, "LoRAs are saved in the precision that loads everywhere"),
    "save_safetensors": ((True, "", None, False), ""),
    "save_use_global_counts": (_OFF, "save and preview intervals count from the start of the run"),
    "ema_predict": (_OFF, "EMA weights are not used while training"),
    "disable_logging": (_OFF, "a run's log is always written"),
    "lora_use_buggy_requires_grad": (_OFF, "only the adapters are trained"),
    "sanity_negative_prompt": (_OFF, "the sanity sample has no negative prompt"),
    "stop_at_steps": (_OFF, "set max_train_steps to stop after a number of steps"),
    "new_tokens_list": (_OFF, "no tokens are added to the tokenizer"),
    "unfreeze_model": (_OFF, "train_unet and stop_text_encoder select what is trained"),
    "train_conditioning": (_OFF, "stop_text_encoder selects whether the text encoder is trained"),
    "train_in_stages": (_OFF, "components are trained together"),
    "use_stages": (_OFF, "components are trained together"),
    "stage_step_ratio": ((1, "", None), "components are trained together"),
    "enable_tomesd": (_OFF, "token merging was removed"),
    "class_buckets": (_OFF, "class images always use the buckets of the instance images"),
    "train_inpainting": (_OFF, "the model's own type is trained"),
    "offset_rand_min": ((1, 0, "", None), "offset noise has a fixed strength"),
    "offset_rand_max": ((1, 0, "", None), "offset noise has a fixed strength"),
    "offset_sched": (_OFF, "offset noise has a fixed strength"),
    "c_step": (_OFF, "there is no curriculum"),
    "curve_sched": (_OFF, "the loss is not scaled by a curve"),
    "loss_curve_scale": (_OFF, "the loss is not scaled by a curve"),
    "lognorm_sampling": (_OFF, "timesteps are sampled uniformly"),
    "scale_reg": (_OFF, "the loss of class images is weighted by prior_loss_weight"),
    "class_labels_conditioning": (("timesteps", "", None), "the model has no class labels"),
    "adaptation_beta1": (_OFF, "optimizer_args has the arguments of the optimizer"),
    "adaptation_beta2": (_OFF, "optimizer_args has the arguments of the optimizer"),
    "adaptation_d0": ((1e-8, *_OFF), "optimizer_args has the arguments of the optimizer"),
    "adaptation_eps": ((1e-8, *_OFF), "optimizer_args has the arguments of the optimizer"),
    "adaptation_growth_rate": ((1e-8, *_OFF), "optimizer_args has the arguments of the optimizer"),
    "adaptation_momentum": (_OFF, "optimizer_args has the arguments of the optimizer"),
}
# Keys whose effect is set under another name by the functions below.
_CONVERTED = {
    "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "adamw_weight_decay", "concepts_path",
    "lora_model_name", "save_use_epochs", "scale_lr", "train_text_encoder", "train_text_encoder_steps",
    "use_8bit_adam", "use_concepts",
}  # fmt: skip

OLD_KEYS = frozenset({*_RENAMED, *_BOOKKEEPING, *_WITHOUT_EFFECT, *_CONVERTED, *_CONCEPT_KEYS})
MAX_EPOCHS = 100_000


def is_old_file(values: Mapping[str, Any]) -> bool:
    """Whether the old extension wrote this db_config.json, or someone by hand with its keys."""
    return _OWN_KEY not in values


def _is_complete(values: Mapping[str, Any]) -> bool:
    """Whether it was not written by hand: what it lacks did not exist in that version."""
    return bool({"pretrained_model_name_or_path", "src", "total_steps"} & values.keys())


def upgrade_old_file(values: dict[str, Any]) -> list[str]:
    """Set today's keys from the old ones in ``values``. Returns a notice for each that is not simply the same."""
    for key in [key for key, value in values.items() if value is None]:
        values.pop(key)
    for old, new in _RENAMED.items():
        if old in values:
            values.setdefault(new, values[old])
    for name in ("revision", "epoch"):
        values[name] = _number(values.get(name), 0, whole=True)
    values["has_ema"] = _is_on(values.get("has_ema"))
    notices: list[str] = []
    for convert in _CONVERSIONS:
        convert(values, notices.append)
    for key, (off, reason) in _WITHOUT_EFFECT.items():
        if key in values and reason and values[key] not in off:
            notices.append(f"{key} {values[key]!r} has no effect: {reason}")
    return notices


def _counts_steps(values: Mapping[str, Any]) -> bool:
    """Whether it is of a version before 2022-12-29, whose intervals could be in steps."""
    return bool({"not_cache_latents", "max_train_steps", "train_text_encoder"} & values.keys())


def _optimizer(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    if "optimizer" not in values and "use_8bit_adam" in values:
        values["optimizer"] = "8bit AdamW" if _is_on(values["use_8bit_adam"]) else "Torch AdamW"
        notice(f"use_8bit_adam {values['use_8bit_adam']} is now optimizer {values['optimizer']!r}")
    decay = next((values[key] for key in ("adamw_weight_decay", "adam_weight_decay") if key in values), None)
    if decay is not None and "weight_decay" not in values:
        values["weight_decay"] = decay
        notice(f"adam(w)_weight_decay is now weight_decay and tenc_weight_decay, {decay}")
    if "weight_decay" in values:
        values.setdefault("tenc_weight_decay", values["weight_decay"])
    betas = tuple(_number(values.get(f"adam_beta{n}"), default) for n, default in ((1, 0.9), (2, 0.999)))
    epsilon = _number(values.get("adam_epsilon"), 1e-8)
    if (*betas, epsilon) != (0.9, 0.999, 1e-8) and "optimizer_args" not in values:
        values["optimizer_args"] = f"betas=({betas[0]:g}, {betas[1]:g}), eps={epsilon:g}"
        notice(f"adam_beta1, adam_beta2 and adam_epsilon are now optimizer_args, {values['optimizer_args']}")


def _learning_rates(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    rate = _number(values.get("learning_rate"), 0)
    if not rate:
        return
    if _is_on(values.get("scale_lr")):
        factor = _number(values.get("gradient_accumulation_steps"), 1) * _number(values.get("train_batch_size"), 1)
        values["learning_rate"] = rate = rate * factor
        notice(f"scale_lr: learning_rate was multiplied by batch size and gradient accumulation, to {rate:g}")
    if not _is_complete(values):
        return
    values.setdefault("txt_learning_rate", rate)
    if _is_on(values.get("use_lora")):
        for key in ("lora_learning_rate", "lora_txt_learning_rate"):
            values.setdefault(key, rate)


def _text_encoder(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    """Early versions had a switch, then a number of steps, then of epochs, then a fraction."""
    key, trained = "stop_text_encoder", values.get("train_text_encoder")
    if key not in values and trained is not None:
        values[key] = 1.0 if _is_on(trained) else 0.0
        notice(f"train_text_encoder {trained} is now {key} {values[key]:g}")
        steps = _number(values.get("train_text_encoder_steps"), -1)
        if steps >= 0 and values[key]:
            remaining = max(0.0, steps - values["revision"])
            total = _number(values.get("max_train_steps"), 0)
            values[key] = min(1.0, remaining / total) if total else float(remaining > 0)
            notice(f"train_text_encoder_steps {steps:g}, of the model's lifetime, is now {key} {values[key]:g}")
    ratio = _number(values.get(key), 0)
    if key in values and ratio < 0:
        values[key] = 1.0
        notice(f"{key} {ratio:g} meant every epoch and is now 1")
    elif ratio > 1:
        epochs = _number(values.get("num_train_epochs"), 100) or 100
        values[key] = min(1.0, ratio / epochs)
        notice(f"{key} {ratio:g} was a number of epochs and is now the fraction {values[key]:g}")
    if "train_unet" in values and not _is_on(values["train_unet"]) and values.get(key) != 1:
        values[key] = 1.0
        notice(f"{key} is now 1: with train_unet off the old extension trained the text encoder to the end")


def _run_length(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    """The maximum number of steps replaced the number of epochs, and counted batches."""
    if not _counts_steps(values):
        return
    accumulation = max(1, _number(values.get("gradient_accumulation_steps"), 1, whole=True))

    def in_optimizer_steps(key: str) -> int:
        return math.ceil(max(0, _number(values.get(key), 0, whole=True)) / accumulation)

    steps = in_optimizer_steps("max_train_steps")
    if steps:
        values["max_train_steps"], values["num_train_epochs"] = steps, min(steps, MAX_EPOCHS)
        counted = f" ({values['max_train_steps'] * accumulation:,} batches)" if accumulation > 1 else ""
        notice(f"max_train_steps alone decides the length of a run: {count(steps, 'step')}{counted}")
    if _is_on(values.get("save_use_epochs")):
        return
    for epochs, per_step in _INTERVALS.items():
        if epochs in values:
            values[per_step], values[epochs] = in_optimizer_steps(epochs), 0
            notice(f"{epochs} counted steps and is now {per_step} {values[per_step]}")


def _defaults(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    """What the versions did that did not have these settings yet."""
    if not _is_complete(values):
        return
    if "not_cache_latents" in values:  # before 2022-12-29: no buckets, and all tags were shuffled
        values.setdefault("bucket_rule", "one size")
        values.setdefault("keep_tokens", 0)
        values.setdefault("save_ckpt_during", True)
        values.setdefault("save_ckpt_cancel", True)
        values.setdefault("max_grad_norm", 0.0)
        if "center_crop" in values and not _is_on(values["center_crop"]):
            notice("center_crop off has no effect: images are cropped to their center, not at random")
    values.setdefault("shuffle_tags", False)


def _choices(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    sampler = str(values.get("scheduler", "")).lower()
    if sampler in _SAMPLERS:
        values["scheduler"] = _SAMPLERS[sampler]
    if "attention" in values and str(values["attention"]).strip().lower() in _ATTENTION:
        if values["attention"] == "flash_attention":
            notice("attention 'flash_attention' is now 'default', which uses flash attention where it is available")
        values["attention"] = "default"


def _lora(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    name = values.get("lora_model_name")
    if isinstance(name, str) and name.strip() and "lora_start" not in values:
        values["lora_start"] = name.strip()
        if _is_on(values.get("use_lora")):
            notice(f"lora_model_name is now lora_start: training continues the LoRA {name.strip()}")


def _concepts(values: dict[str, Any], notice: Callable[[str], None]) -> None:
    """Concepts in a file, or, in the first versions, one concept among the settings."""
    if isinstance(values.get("concepts_list"), str):
        values["concepts_path"], values["use_concepts"] = values.pop("concepts_list"), True
    alone = {key: values.pop(key) for key in _CONCEPT_KEYS if key in values}
    if not alone:
        return
    if "with_prior_preservation" in values and not _is_on(values["with_prior_preservation"]):
        alone["num_class_images"] = 0
    if "sample_seed" not in alone and "seed" in values:
        alone["sample_seed"] = values["seed"]
    listed = values.get("concepts_list")
    if isinstance(listed, list) and listed:
        values["concepts_list"] = [{**alone, **concept} if isinstance(concept, dict) else concept for concept in listed]
    elif str(alone.get("instance_data_dir") or "").strip():
        values["concepts_list"] = [alone]


_CONVERSIONS = (_concepts, _text_encoder, _optimizer, _learning_rates, _run_length, _defaults, _choices, _lora)


def _is_on(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "1.0", "yes", "on")


def _number(value: Any, default: float, whole: bool = False) -> Any:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    if not math.isfinite(number):
        return default
    return int(number) if whole else number


def reason_without_effect(key: str) -> str:
    """Why a key of the old extension has no effect, or what has its effect; "" if nothing is known of it."""
    return _WITHOUT_EFFECT.get(key, ((), ""))[1]
