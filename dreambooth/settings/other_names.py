"""What other trainers and older versions call a setting, so that a message about an unknown key names ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dreambooth.settings.legacy import REMOVED
from dreambooth.settings.old_extension import reason_without_effect
from dreambooth.text import nearest

if TYPE_CHECKING:
    from dreambooth.settings.declare import Setting

_SIMILAR = 0.8  # of spelling mistakes; names of another meaning are less similar
_CREATE = "the checkpoint is chosen when the model is created (dreambooth create NAME --source CHECKPOINT)"
_OF_CONCEPT = "in the concepts file (--concepts)"

# What to use instead, and names in sd-scripts, its GUIs, OneTrainer, ai-toolkit, diffusers and the old extension.
_NAMES = {
    "set lora_learning_rate with use_lora, otherwise learning_rate": "lr unet_lr unet_learning_rate base_lr",
    "set lora_txt_learning_rate with use_lora, otherwise txt_learning_rate":
        "text_encoder_lr te_lr tenc_lr text_lr text_encoder_learning_rate te_learning_rate text_learning_rate",
    "set lora_unet_rank and lora_txt_rank, with use_lora":
        "rank network_dim network_rank lora_rank lora_dim dim unet_dim linear r",
    "set lora_txt_rank": "lora_text_rank text_encoder_dim te_rank",
    "set lora_unet_alpha and lora_txt_alpha, with use_lora": "network_alpha lora_alpha alpha linear_alpha",
    "set lora_conv_rank with use_lora_extended": "conv_dim conv_rank conv lora_conv_dim",
    "set lora_conv_alpha with use_lora_extended": "conv_alpha",
    "set lora_unet_dropout and lora_txt_dropout":
        "network_dropout dropout lora_dropout dropout_probability module_dropout rank_dropout",
    "set use_lora, lora_type and use_lora_extended":
        "network_module network_type lora_algo algo peft_type training_method network_args",
    "set use_lora": "lora train_lora",
    "set use_lora_extended": "locon use_locon",
    "set lora_dora": "dora dora_wd use_dora decompose_both",
    "set training_adapter": "assistant_lora assistant_lora_path assistant_adapter turbo_adapter",
    "set lora_start": "network_weights lora_model_name pretrained_lora lora_weights lora_path",
    "set stop_text_encoder=0 to leave the text encoder out": "network_train_unet_only train_text_encoder train_te",
    "set train_unet=false to leave the UNet out": "network_train_text_encoder_only use_unet",
    "set stop_text_encoder": "stop_text_encoder_training train_text_encoder_frac text_encoder_stop",
    "set offset_noise": "noise_offset offset_noise_weight",
    "set multires_noise_iterations": "pyramid_noise multires_noise pyramid_noise_iterations",
    "set multires_noise_discount": "pyramid_noise_discount pyramid_discount",
    "set input_perturbation": "ip_noise_gamma input_perturb",
    "set min_snr_gamma": "snr_gamma min_snr",
    "set debiased_estimation": "debiased_estimation_loss",
    "set train_batch_size": "batch_size batch train_batch",
    "set num_train_epochs": "epochs epoch num_epochs max_epochs max_train_epochs max_epoch training_epochs",
    "set max_train_steps": "steps train_steps num_steps total_steps max_train_step num_train_steps",
    "set resolution, and resolution_height if images are not square":
        "max_resolution image_size img_size res width image_resolution",
    "set resolution_height": "height",
    "set optimizer": "optimizer_type optim optimizer_name optimiser",
    "set optimizer=\"8bit AdamW\"": "use_8bit_adam use_8bit_adamw",
    "set optimizer=Lion": "use_lion_optimizer",
    "set optimizer_args": "optimizer_params optim_args optimizer_arguments",
    "set optimizer_args, as in betas=(0.9, 0.99), eps=1e-8": "adam_beta1 adam_beta2 adam_epsilon betas eps beta1 beta2",
    "set weight_decay": "adam_weight_decay adamw_weight_decay wd decay",
    "set lr_scheduler": "scheduler_type lr_scheduler_type learning_rate_scheduler lr_schedule lr_sched",
    "set lr_warmup_steps": "lr_warmup warmup warmup_steps learning_rate_warmup_steps lr_warmup_ratio warmup_ratio",
    "set lr_cycles": "lr_scheduler_num_cycles lr_num_cycles lr_scheduler_cycles learning_rate_cycles num_cycles",
    "set lr_power": "lr_scheduler_power",
    "set learning_rate_min": "min_learning_rate min_lr lr_min lr_scheduler_min_lr_ratio",
    "set custom_model_name": "output_name save_name run_name output_filename lora_name output_model_name",
    "set gradient_accumulation_steps": "gradient_accumulation accumulation_steps grad_accum accumulate_grad_batches",
    "set gradient_checkpointing": "grad_checkpointing gradient_checkpoint enable_gradient_checkpointing",
    "set max_grad_norm": "clip_grad_norm grad_clip gradient_clipping clip_grad max_norm",
    "set allow_tf32": "tf32 enable_tf32 tf32_enable cuda_allow_tf32",
    "set cudnn_benchmark": "cuda_cudnn_benchmark benchmark",
    "set cuda_graphs": "cuda_graph use_cuda_graphs cudagraphs",
    "set torch_compile": "compile block_compile compile_blocks use_torch_compile",
    "set channels_last": "opt_channelslast memory_format",
    "set attention": "xformers use_xformers sdpa mem_eff_attn enable_xformers attention_mechanism",
    "set mixed_precision": "precision dtype train_dtype fp16 bf16 use_fp16 use_bf16",
    "set full_mixed_precision": "full_bf16 full_fp16 weight_dtype",
    "set offload_fraction": "blocks_to_swap block_swap layer_offload_fraction layer_offloading offload_blocks",
    "set offload_activations": "cpu_offload_checkpointing activation_offloading enable_activation_offloading",
    "set base_precision": "fp8_base fp8_base_unet quantization quantize qtype base_weight_dtype",
    "set half_model": "save_precision output_dtype half",
    "set save_embedding_every": "save_every_n_epochs save_every save_every_epochs save_frequency",
    "set save_every_steps": "save_every_n_steps checkpointing_steps save_steps",
    "set save_preview_every": "sample_every_n_epochs preview_every",
    "set preview_every_steps": "sample_every_n_steps sample_every sample_steps sample_every_steps",
    "set validation_every": "validate_every_n_epochs validation_epochs",
    "set validation_share": "validation_split validation_fraction",
    "set snapshots_to_keep": "save_last_n_epochs save_last_n_steps max_step_saves_to_keep checkpoints_total_limit",
    "set save_state_during": "save_state",
    "set shuffle_tags": "shuffle_caption shuffle_captions shuffle_tokens tag_shuffling shuffle",
    "set keep_tokens": "keep_token keep_tags keep_tags_count",
    "set caption_dropout": "caption_dropout_rate cond_dropout",
    "set tag_dropout": "caption_tag_dropout_rate tag_dropout_rate token_dropout_rate",
    "set max_token_length": "max_tokens token_length max_token_len",
    "set hflip": "flip_aug random_flip flip flip_x enable_random_flip",
    "set bucket_step": "bucket_reso_steps bucket_steps",
    "set bucket_min_side": "min_bucket_reso",
    "set bucket_max_side": "max_bucket_reso",
    "set bucket_rule": "enable_bucket enable_bucketing aspect_ratio_bucketing use_buckets",
    "set bucket_no_upscale": "no_upscale",
    "set use_ema": "ema",
    "set prior_loss_weight": "prior_weight class_loss_weight",
    "set masked_loss": "masked_training use_masks",
    "set unmasked_weight": "unmasked_loss_weight",
    "set timestep_sampling": "timestep_type timestep_distribution",
    "set timestep_mean": "logit_mean",
    "set timestep_std": "logit_std",
    "set timestep_shift": "discrete_flow_shift training_shift flow_shift",
    "set resolution_shift": "dynamic_timestep_shifting",
    "set flow_loss_weighting": "weighting_scheme",
    "set zero_terminal_snr": "rescale_betas_zero_snr ztsnr zero_snr rescale_noise_scheduler_to_zero_terminal_snr",
    "use train --resume": "resume resume_from_checkpoint load_state",
    "--models-dir selects the folders": "output_dir logging_dir save_dir model_dir out_dir",
    f"{_CREATE}": "sd_model pretrained_model_name_or_path base_model base_model_name model checkpoint ckpt source "
        "model_path name_or_path sd_checkpoint model_train_type",
    "the VAE is chosen when the model is created (dreambooth create --vae)": "vae vae_path",
    "it is detected when the model is created (dreambooth create --model-type, --prediction-type)":
        "v2 v_parameterization sdxl v_pred is_v_pred is_xl prediction_type",
    f"set instance_data_dir {_OF_CONCEPT}": "train_data_dir image_dir data_dir dataset instance_data images "
        "train_dir folder_path dataset_path folder",
    f"set class_data_dir, or a concept with regularization, {_OF_CONCEPT}": "reg_data_dir class_dir reg_dir is_reg",
    f"set instance_prompt or default_caption {_OF_CONCEPT}": "prompt caption class_tokens",
    f"set instance_token {_OF_CONCEPT}": "token trigger trigger_word token_string placeholder_token",
    f"set num_class_images_per {_OF_CONCEPT}, which counts images per instance image": "num_class_images",
    f"set num_repeats {_OF_CONCEPT}": "repeats dataset_repeats repeat n_repeats balancing",
    f"set caption_extension {_OF_CONCEPT}": "caption_ext caption_extention caption_suffix",
    f"set save_sample_prompt {_OF_CONCEPT}": "sample_prompts sample_prompt validation_prompt",
    f"set metadata_file {_OF_CONCEPT}": "in_json metadata",
    "latents are always cached": "cache_latents cache_latents_to_disk not_cache_latents latent_caching",
    "there is no counterpart; remove it": "random_crop color_aug face_crop_aug_range adaptive_noise_scale "
        "persistent_data_loader_workers max_data_loader_n_workers v_pred_like_loss scale_v_pred_loss_like_noise_pred "
        "lowram highvram wandb_api_key",
}  # fmt: skip
ADVICE = {name: advice for advice, names in _NAMES.items() for name in names.split()}


def unknown_key(key: str, settings: Mapping[str, Setting]) -> str:
    """What to do about a key that is none of ``settings``, as "; set ...", or a similar name."""
    from dreambooth.settings.concept import CONCEPT
    from dreambooth.settings.run import SETTINGS

    plain = re.sub(r"[\s-]+", "_", key.strip().lstrip("-")).lower()
    is_concept, is_run = "instance_data_dir" in settings, "use_lora" in settings
    if plain in settings:
        return f"; set {plain}"
    if is_run and plain in CONCEPT:
        return f"; set it {_OF_CONCEPT}"
    if is_concept and plain in SETTINGS:
        return "; it is a setting of the run (--set), not of a concept"
    label = key.strip().lower()
    if by_label := next((name for name, setting in settings.items() if setting.label.lower() == label), ""):
        return f"; set {by_label}"
    if (is_concept or is_run) and (advice := _advice(plain)):
        return f"; {advice.replace(f' {_OF_CONCEPT}', '') if is_concept else advice}"
    return nearest(plain, settings, _SIMILAR)


def _advice(key: str) -> str:
    return f"{REMOVED[key]} was removed" if key in REMOVED else ADVICE.get(key) or reason_without_effect(key)


def value_advice(key: str, value: object) -> str:
    """What was meant by an invalid value, as "; write ..."; "" if that is unclear."""
    text = str(value).strip()
    size = re.fullmatch(r"(\d{2,5})\s*[x×*,;]\s*(\d{2,5})", text, re.IGNORECASE)
    if key == "resolution" and size:
        width, height = size.groups()
        other = f', and resolution_height={height} with bucket_rule=kohya or "one size"' if height != width else ""
        return f"; use resolution={width}{other}"
    if key == "lora_type" and re.sub(r"\W|_", "", text.lower()) in ("locon", "lycorislocon", "lierla", "standard"):
        return "; use lora_type=LoRA, with use_lora_extended=true for convolutions"
    number = re.fullmatch(r"([+-]?\d*[.,]?\d+(?:[eE][+-]?\d+)?)[,;]?", text)
    if number and number[1].replace(",", ".") != text:
        return f"; write {number[1].replace(',', '.')}"
    return ""
