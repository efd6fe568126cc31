"""Import of OneTrainer's precision, loss, noise, masks, prompts and moving average."""

from __future__ import annotations

import dataclasses

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.interop.onetrainer.config_file import is_sdxl
from dreambooth.settings.training import GLOBAL_OPTIMIZERS

# Formats of frozen weights -> base_precision; those of other kinds have none.
_BASE_PRECISIONS = {"FLOAT_8": "fp8", "FLOAT_W8A8": "fp8", "INT_8": "int8", "INT_W8A8": "int8", "NFLOAT_4": "nf4"}
_PRECISIONS = {"FLOAT_16": "fp16", "BFLOAT_16": "bf16", "FLOAT_32": "no", "TFLOAT_32": "no"}


def import_precision(report: ImportReport, config: NestedValues) -> None:
    dtype = config.word("train_dtype")
    precision = _PRECISIONS.get(dtype)
    if precision is None:
        report.unsupported.append(f"train_dtype = {dtype}: not supported; the current mixed precision is kept.")
    else:
        report.set("mixed_precision", precision, config.source("train_dtype"))
    report.set(
        "gradient_checkpointing", config.flag("unet.gradient_checkpointing"),
        config.source("unet.gradient_checkpointing"),
    )  # fmt: skip
    report.set("torch_compile", config.flag("compile"), config.source("compile"))
    tf32 = dtype == "TFLOAT_32"
    report.set("allow_tf32", tf32, "train_dtype" if tf32 else "")
    _import_offload(report, config)
    report.set("max_grad_norm", config.number("clip_grad_norm"), config.source("clip_grad_norm"))
    lora = bool(report.settings.get("use_lora"))
    output = config.word("output_dtype")
    if not lora:
        report.set("half_model", output in ("FLOAT_16", "BFLOAT_16"), config.source("output_dtype"))
        if output == "BFLOAT_16":
            report.unsupported.append("output_dtype = BFLOAT_16: half-precision checkpoints are saved as fp16.")
    weights = config.word("lora_weight_dtype" if lora else "unet.weight_dtype")
    in_bf16 = not lora and weights == "BFLOAT_16" and precision == "bf16"
    in_bf16 = in_bf16 and report.settings.get("optimizer") not in GLOBAL_OPTIMIZERS
    base = _BASE_PRECISIONS.get(config.word("unet.weight_dtype"), "") if lora else ""
    report.set("base_precision", base or "full", config.source("unet.weight_dtype") if base else "")
    report.set("full_mixed_precision", in_bf16, config.source("unet.weight_dtype") if in_bf16 else "")
    if weights not in ("FLOAT_32", "TFLOAT_32", "NONE", "") and not in_bf16:
        key = "lora_weight_dtype" if lora else "unet.weight_dtype"
        report.unsupported.append(f"{key} = {weights}: trained weights are kept in fp32 here.")


def _import_offload(report: ImportReport, config: NestedValues) -> None:
    """Where it would not be refused; the weights are the same without it."""
    key = "unet.offload_fraction" if config.number("unet.offload_fraction") else "layer_offload_fraction"
    updates_blocks = report.settings.get("use_lora") or report.settings.get("fused_backward")
    if config.number(key) and updates_blocks and config.flag("unet.gradient_checkpointing"):
        report.set("offload_fraction", min(1.0, config.number(key)), config.source(key))


def import_loss(report: ImportReport, config: NestedValues) -> None:
    strengths = {key: config.number(f"{key}_strength") for key in ("mse", "mae", "huber", "log_cosh")}
    used = {key: value for key, value in strengths.items() if value}
    kinds = {"mse": "l2", "mae": "l1", "huber": "huber", "log_cosh": "huber"}
    strongest = max(used, key=used.__getitem__, default="mse")
    report.set("loss_type", kinds[strongest], config.source(f"{strongest}_strength"))
    if len(used) != 1 or used[strongest] != 1 or strongest == "log_cosh":
        losses = ", ".join(f"{key}_strength {value:g}" for key, value in used.items()) or "all strengths 0"
        report.unsupported.append(f"{losses}: a single loss with strength 1 is trained, {kinds[strongest]}.")
    if kinds[strongest] == "huber":
        report.set("huber_schedule", "constant")
        delta = config.number("huber_delta") if strongest == "huber" else 1.0
        report.set("huber_c", min(1.0, delta), config.source("huber_delta"))
        report.unsupported.append(
            "huber_strength, huber_delta: the smooth pseudo-Huber loss is trained, with a threshold of at most 1."
        )
    weighting, strength = config.word("loss_weight_fn"), config.number("loss_weight_strength")
    gamma = strength if weighting == "MIN_SNR_GAMMA" else 0
    report.set("min_snr_gamma", gamma, config.source("loss_weight_fn") if gamma else "")
    debiased = weighting == "DEBIASED_ESTIMATION"
    report.set("debiased_estimation", debiased, config.source("loss_weight_fn") if debiased else "")
    if weighting not in ("CONSTANT", "MIN_SNR_GAMMA", "DEBIASED_ESTIMATION"):
        report.unsupported.append(f"loss_weight_fn = {weighting}: not supported; all timesteps have the same weight.")


def import_noise(report: ImportReport, config: NestedValues) -> None:
    report.set("offset_noise", config.number("offset_noise_weight"), config.source("offset_noise_weight"))
    report.set("multires_noise_iterations", 0)
    perturbation = config.number("perturbation_noise_weight")
    report.set("input_perturbation", perturbation, config.source("perturbation_noise_weight"))
    if perturbation:
        report.unsupported.append(
            f"perturbation_noise_weight = {perturbation:g}: OneTrainer adds this noise to the target too, here it is "
            "added to the input only."
        )
    rescaled = config.flag("rescale_noise_scheduler_to_zero_terminal_snr")
    report.set("zero_terminal_snr", rescaled, config.source("rescale_noise_scheduler_to_zero_terminal_snr"))
    if rescaled:
        report.unsupported.append(
            "rescale_noise_scheduler_to_zero_terminal_snr: OneTrainer also switches to v-prediction. Here the "
            "prediction type belongs to the model; choose it when you create it (--prediction-type v_prediction)."
        )


def import_masks(report: ImportReport, config: NestedValues) -> None:
    masked = config.flag("masked_training")
    report.set("masked_loss", masked, config.source("masked_training"))
    report.set("unmasked_weight", config.number("unmasked_weight"), config.source("unmasked_weight"))
    if masked:
        report.unsupported.append(
            "masked_training: images without a mask (NAME-masklabel.png) that are transparent are masked by their "
            "transparency here."
        )
    else:
        config.skip(["normalize_masked_area_loss", "masked_prior_preservation_weight"])
    if "INPAINTING" in config.word("model_type"):
        report.unsupported.append(
            "model_type: inpainting models are trained with random masks here, in OneTrainer with the images' masks."
        )


def import_prompts(report: ImportReport, config: NestedValues) -> None:
    """Clip skip, dropout of captions, and what OneTrainer always does with prompts."""
    skip = int(config.number("text_encoder_layer_skip"))
    sdxl = is_sdxl(config)
    report.set("clip_skip", 1 if sdxl else skip + 1, config.source("text_encoder_layer_skip"))
    if sdxl and (skip or config.number("text_encoder_2_layer_skip")):
        report.unsupported.append("text_encoder_layer_skip: Stable Diffusion XL always uses the second-last layer.")
    for key, value in (("max_token_length", 75), ("weighted_captions", False), ("pad_tokens", True)):
        report.set(key, value)
    report.set("strict_tokens", False)
    p = config.number("text_encoder.dropout_probability")
    config.skip([] if sdxl else ["text_encoder_2.dropout_probability"])
    if not p:
        return
    report.concepts = [
        dataclasses.replace(concept, caption_dropout=max(p, concept.caption_dropout)) for concept in report.concepts
    ]
    report.set("caption_dropout", p, "text_encoder.dropout_probability")
    report.unsupported.append(
        "text_encoder.dropout_probability: OneTrainer sets the text encoder's output to zero, here an empty caption is "
        "encoded."
    )


def import_ema(report: ImportReport, config: NestedValues) -> None:
    mode = config.word("ema")
    on = mode in ("GPU", "CPU")
    if on and report.settings.get("use_lora"):
        report.unsupported.append(f"ema = {mode}: a moving average is supported for full training only.")
        on = False
    report.set("use_ema", on, config.source("ema"))
    report.set("ema_on_cpu", on and mode == "CPU")
    if on:
        every = max(1, int(config.number("ema_update_step_interval")))
        report.set("ema_update_every", every, config.source("ema_update_step_interval"))
        decay = config.number("ema_decay") ** (1 / every)  # OneTrainer applies it once in so many steps
        report.set("ema_decay", round(decay, 9), config.source("ema_decay"))
        report.set("infer_ema", True, "ema")  # OneTrainer saves the average as the model
