"""Metadata of results: kohya's ss_* keys, which WebUIs read, and Stability's modelspec 1.0.1."""

from __future__ import annotations

import base64
import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth import __version__
from dreambooth.checkpoints.modules import load_scheduler_config
from dreambooth.dataset.plan import Plan
from dreambooth.files import read_json
from dreambooth.models.family import Family
from dreambooth.models.registry import family_of
from dreambooth.settings import ModelConfig, ModelFolder, Settings
from dreambooth.settings.components import DENOISER, quantizes_base
from dreambooth.training.adapters import adapter_config
from dreambooth.training.schedules import base_learning_rates

TRAINING_METADATA = "training.json"  # the metadata of the last training, in working/

_THUMBNAIL_SIDE = 256  # pixels


def training_metadata(
    config: ModelConfig, plan: Plan, family: Family, precision: str, step: int, epoch: int, started: float
) -> dict[str, str]:
    """ss_* keys of a training run. All values are text; structures are JSON."""
    settings = config.settings
    lora = settings.use_lora
    rates = base_learning_rates(settings)
    denoiser, text = adapter_config(settings, "denoiser"), adapter_config(settings, "text_encoder")
    main = denoiser if settings.train_unet else text
    facts: dict[str, Any] = {
        "ss_output_name": config.output_name,
        "ss_sd_model_name": Path(config.info.src).name,
        **family.adapter_metadata,
        "ss_training_started_at": started,
        "ss_training_finished_at": time.time(),
        "ss_training_comment": f"DreamBooth for Stable Diffusion WebUI {__version__}",
        "ss_num_train_images": len(plan.examples),
        "ss_num_reg_images": len({e.path for e in plan.all_examples() if e.is_class}),
        "ss_num_batches_per_epoch": plan.steps_per_epoch(settings.train_batch_size),
        "ss_num_epochs": settings.num_train_epochs,
        "ss_epoch": epoch,
        "ss_steps": step,
        "ss_total_batch_size": settings.train_batch_size,
        "ss_gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "ss_gradient_checkpointing": settings.gradient_checkpointing,
        "ss_learning_rate": getattr(settings, DENOISER.rate(lora)),
        "ss_unet_lr": rates.get("denoiser"),
        "ss_text_encoder_lr": rates.get("text_encoder"),
        "ss_lr_scheduler": settings.lr_scheduler,
        "ss_lr_warmup_steps": settings.lr_warmup_steps,
        "ss_optimizer": settings.optimizer,
        "ss_max_grad_norm": settings.max_grad_norm,
        "ss_mixed_precision": precision,
        "ss_clip_skip": settings.clip_skip,
        "ss_noise_offset": settings.offset_noise,
        "ss_multires_noise_iterations": settings.multires_noise_iterations,
        "ss_multires_noise_discount": settings.multires_noise_discount,
        "ss_ip_noise_gamma": settings.input_perturbation,
        "ss_zero_terminal_snr": settings.zero_terminal_snr,
        "ss_min_snr_gamma": settings.min_snr_gamma,
        "ss_debiased_estimation": settings.debiased_estimation,
        "ss_masked_loss": settings.masked_loss,
        "ss_loss_type": settings.loss_type,
        "ss_huber_schedule": settings.huber_schedule,
        "ss_huber_c": settings.huber_c,
        "ss_prior_loss_weight": settings.prior_loss_weight,
        "ss_seed": settings.seed,
        "ss_resolution": f"({settings.resolution}, {settings.resolution})",
        "ss_enable_bucket": True,
        "ss_bucket_no_upscale": settings.bucket_no_upscale,
        "ss_min_bucket_reso": settings.bucket_min_side or None,
        "ss_max_bucket_reso": settings.bucket_max_side or None,
        "ss_flip_aug": settings.hflip,
        "ss_max_token_length": settings.max_token_length if settings.max_token_length > 75 else None,
        "ss_shuffle_caption": settings.shuffle_tags,
        "ss_keep_tokens": settings.keep_tokens,
        "ss_caption_dropout_rate": settings.caption_dropout,
        "ss_caption_tag_dropout_rate": settings.tag_dropout,
        "ss_bucket_info": _buckets(plan),
        "ss_dataset_dirs": _folders(plan),
        "ss_tag_frequency": _tags(plan),
        **({"ss_fp8_base": True} if quantizes_base(settings) and settings.base_precision == "fp8" else {}),
        **family.ss_values(settings),
    }
    if lora:
        is_lycoris = settings.lora_type != "LoRA" or settings.lora_dora
        facts |= {
            "ss_network_module": "lycoris.kohya" if is_lycoris else "networks.lora",
            "ss_network_dim": main.rank,
            "ss_network_alpha": main.alpha or main.rank,
            "ss_network_dropout": main.dropout,
            "ss_network_args": {
                "text_encoder_dim": text.rank,
                "text_encoder_alpha": text.alpha or text.rank,
                **_network_args(settings),
            },
        }
    return {key: _text(value) for key, value in facts.items()}


def _network_args(settings: Settings) -> dict[str, Any]:
    """The network_args with which sd-scripts and LyCORIS train such adapters."""
    args: dict[str, Any] = {}
    if settings.use_lora_extended:
        args |= {
            "conv_dim": settings.lora_conv_rank,
            "conv_alpha": settings.lora_conv_alpha or settings.lora_conv_rank,
        }
    if settings.lora_type != "LoRA" or settings.lora_dora:
        args["algo"] = {"LoRA": "locon", "LoHa": "loha", "LoKr": "lokr"}[settings.lora_type]
    if settings.lora_type == "LoKr":
        args["factor"] = settings.lokr_factor or -1
    if settings.lora_dora:
        args |= {"dora_wd": True, "wd_on_output": False}
    return args


def modelspec(
    title: str,
    family: Family,
    denoiser: Mapping[str, Any],
    resolution: int,
    clip_skip: int,
    *,
    lora: bool,
    prediction_type: str,
) -> dict[str, str]:
    """Stability's model metadata, version 1.0.1 (github.com/Stability-AI/ModelSpec).

    ``denoiser``: its config.
    """
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": family.architecture(denoiser) + ("/lora" if lora else ""),
        "modelspec.implementation": family.implementation if lora else family.checkpoint_implementation,
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **family.modelspec_values(prediction_type, clip_skip),
    }


def thumbnail(folder: Path) -> dict[str, str]:
    """modelspec's thumbnail, a data URL: the newest sample in ``folder``, scaled down. {} if there is none."""
    from PIL import Image

    newest = max(folder.glob("*.png"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        return {}
    with Image.open(newest) as image:
        small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return {"modelspec.thumbnail": f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"}


def checkpoint_metadata(model: ModelFolder, config: ModelConfig, title: str, merged: Sequence[Path]) -> dict[str, str]:
    """Metadata of a checkpoint made from working/: its last training, and the LoRAs that were ``merged``."""
    path = model.working / TRAINING_METADATA
    metadata = read_json(path) if path.exists() else {}
    if merged:
        metadata["modelspec.merged_from"] = ", ".join(path.stem for path in merged)
    settings, family = config.settings, family_of(config.info.model_type)
    denoiser = read_json(model.working / family.denoiser.name / "config.json")
    prediction = load_scheduler_config(model.working).get("prediction_type", family.default_prediction)
    spec = modelspec(
        title, family, denoiser, settings.resolution, settings.clip_skip, lora=False, prediction_type=prediction
    )
    return {**metadata, **spec, **(thumbnail(model.samples) if settings.save_thumbnail else {})}


def _buckets(plan: Plan) -> dict[str, Any]:
    counts = Counter(example.bucket for example in plan.examples)
    return {"buckets": {str(i): {"resolution": list(size), "count": n} for i, (size, n) in enumerate(counts.items())}}


def _folders(plan: Plan) -> dict[str, Any]:
    counts = Counter(example.path.parent.name for example in plan.examples)
    repeats = {example.path.parent.name: example.repeats for example in plan.examples}
    return {name: {"n_repeats": repeats[name], "img_count": n} for name, n in counts.items()}


def _tags(plan: Plan) -> dict[str, dict[str, int]]:
    """Count of each comma-separated tag, by folder. The WebUI shows it on the LoRA's card."""
    counts: dict[str, Counter[str]] = {}
    for example in plan.examples:
        tags = [tag.strip() for tag in example.caption.split(",") if tag.strip()]
        counts.setdefault(example.path.parent.name, Counter()).update(tags)
    return {name: dict(counter) for name, counter in counts.items()}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)
