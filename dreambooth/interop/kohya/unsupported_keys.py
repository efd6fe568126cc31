"""Training parameters of kohya's sd-scripts without an equivalent setting, each with an explanation."""

from __future__ import annotations

_DETECTED = "detected from the checkpoint when a model is created"
_LOGS = "logs are written to the model's folder"
_HUB = "uploads to the Hugging Face Hub are not supported"
_FILE_FORMAT = "LoRA files are saved as half-precision safetensors"

# Parameter -> explanation.
UNSUPPORTED_TRAINING_KEYS = {
    "pretrained_model_name_or_path": "the model is chosen when it is created (create NAME --source ...)",
    "vae": "the VAE is chosen when a model is created",
    "scale_weight_norms": "max-norm regularization of adapters is not supported",
    "base_weights": "merge it into the model first (generate-ckpt --lora)",
    "base_weights_multiplier": "merge it into the model first (generate-ckpt --lora)",
    "noise_offset_random_strength": "the noise offset is the same in each step",
    "ip_noise_gamma_random_strength": "input perturbation is the same in each step",
    "adaptive_noise_scale": "the noise offset does not depend on the latents",
    "huber_scale": "the Huber loss is not scaled (huber_scale=1)",
    "scale_v_pred_loss_like_noise_pred": "the loss of v-prediction models is not rescaled",
    "v_pred_like_loss": "no v-prediction loss is added to the noise-prediction loss",
    "full_fp16": "small updates are lost in fp16; mixed precision keeps weights in fp32",
    "lr_scheduler_timescale": "the inverse square root schedule is not supported",
    "lr_decay_steps": "decaying schedules always end with the run",
    "optimizer_schedulefree_wrapper": "other optimizers have no schedule-free form; choose Schedule-Free AdamW",
    "schedulefree_wrapper_args": "other optimizers have no schedule-free form; choose Schedule-Free AdamW",
    "block_lr": "the UNet has one learning rate",
    "save_last_n_epochs": "all LoRA files and checkpoints are kept; only snapshots are limited in number",
    "save_last_n_steps": "all LoRA files and checkpoints are kept; only snapshots are limited in number",
    "sample_at_first": "the first preview is generated after the first preview interval",
    "initial_epoch": "resumed runs continue at the epoch of their snapshot",
    "initial_step": "resumed runs continue at the step of their snapshot",
    "skip_until_initial_step": "resumed runs continue at the step of their snapshot",
    "resume": "training states of sd-scripts can't be loaded",
    "max_validation_steps": "validation uses the whole validation split",
    "output_dir": "results are saved in the WebUI's model folders",
    **dict.fromkeys(("deepspeed", "zero_stage", "zero3_init_flag", "zero3_save_16bit_model", "offload_optimizer_device",
                     "offload_optimizer_nvme_path", "offload_param_device", "offload_param_nvme_path"),
                    "DeepSpeed is not supported; for several GPUs use accelerate launch -m dreambooth"),
    **dict.fromkeys(("token_string", "init_word", "num_vectors_per_token", "weights", "use_object_template",
                     "use_style_template"), "textual inversion is not supported"),
    "dataset_class": "images are read from folders only",
    "conditioning_data_dir": "ControlNet training is not supported; masks are used with masked_loss = true",
    "fp16_master_weights_and_gradients": "small updates are lost in fp16; mixed precision keeps weights in fp32",
}  # fmt: skip

# Network arguments (network_args) without an equivalent setting; all others are unknown.
UNSUPPORTED_NETWORK_ARGUMENTS = {
    "rank_dropout": "dropout applies to individual values (network_dropout), not to whole ranks",
    "module_dropout": "dropout applies to individual values (network_dropout), not to whole adapters",
    "rank_dropout_scale": "dropout applies to individual values (network_dropout), not to whole ranks",
    **dict.fromkeys(("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"),
                    "all UNet blocks have the same rank and alpha"),
    **dict.fromkeys(("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold"),
                    "all UNet blocks have the same learning rate"),
    **dict.fromkeys(("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"),
                    "LoRA+ is not supported; both matrices of an adapter have the same learning rate"),
    **dict.fromkeys(("use_tucker", "use_cp", "use_conv_cp", "disable_conv_cp"),
                    "convolution adapters are trained without Tucker decomposition"),
    **dict.fromkeys(("train_norm", "use_scalar", "decompose_both", "full_matrix", "bypass_mode", "rs_lora",
                     "unbalanced_factorization"), "this adapter option is not supported"),
    **dict.fromkeys(("block_size", "unit"), "DyLoRA is not supported"),
    **dict.fromkeys(("constraint", "rescaled"), "OFT is not supported"),
    "train_t5xxl": "models with this text encoder are not supported",
    "dropout": "networks.lora has no such argument; use network_dropout",
}  # fmt: skip
# Arguments that LyCORIS has, and the modules of sd-scripts ignore.
LYCORIS_ARGUMENTS = frozenset({
    "algo", "preset", "factor", "dora_wd", "wd_on_output", "use_tucker", "use_cp", "use_conv_cp", "disable_conv_cp",
    "train_norm", "use_scalar", "decompose_both", "full_matrix", "bypass_mode", "rs_lora", "unbalanced_factorization",
    "block_size", "constraint", "rescaled",
})  # fmt: skip

# network_module without an equivalent -> explanation.
OTHER_MODULES = {
    "networks.dylora": "DyLoRA is not supported",
    "networks.oft": "OFT is not supported",
    "networks.lora_fa": "LoRA-FA trains only one of the two matrices",
    "networks.control_net_lllite": "ControlNet training is not supported",
}
# LyCORIS' algo without an equivalent -> explanation.
OTHER_ALGORITHMS = {
    "full": "full weight differences are not supported; turn off Use LoRA to train all weights",
    "ia3": "(IA)^3 is not supported",
    "dylora": "DyLoRA is not supported",
    "glora": "GLoRA is not supported",
    **dict.fromkeys(("diag-oft", "boft", "oft"), "OFT is not supported"),
    "norm": "training only normalization layers is not supported",
}

# Parameters that are not needed or do not change the trained weights.
NO_EFFECT_KEYS = {
    **dict.fromkeys(("v2", "v_parameterization", "sdxl"), _DETECTED),
    **dict.fromkeys(("cache_latents", "cache_latents_to_disk", "vae_batch_size", "skip_cache_check"),
                    "latents are always cached"),
    **dict.fromkeys(("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "text_encoder_batch_size"),
                    "text encoder outputs are cached unless captions vary"),
    **dict.fromkeys(("logging_dir", "log_prefix", "log_with", "log_config", "log_tracker_name", "log_tracker_config",
                     "wandb_api_key", "wandb_run_name"), _LOGS),
    **dict.fromkeys(("huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo", "huggingface_token",
                     "huggingface_repo_visibility", "async_upload", "save_state_to_huggingface",
                     "resume_from_huggingface"), _HUB),
    **dict.fromkeys(("save_model_as", "save_precision", "use_safetensors"), _FILE_FORMAT),
    **dict.fromkeys(("max_data_loader_n_workers", "persistent_data_loader_workers", "lowram", "highvram",
                     "dynamo_backend", "no_half_vae", "ddp_timeout",
                     "ddp_gradient_as_bucket_view", "ddp_static_graph",
                     "disable_mmap_load_safetensors", "fused_optimizer_groups"),
                    "does not change the trained weights"),
    "blocks_to_swap": "does not change the trained weights; offload_fraction saves as much memory",
    "epoch": "max_train_epochs sets the length",
    "noise_offset_type": "noise_offset and multires_noise_iterations choose the noise",
    **dict.fromkeys(("no_metadata", "training_comment", "output_config", "config_file", "debug_dataset",
                     "tokenizer_cache_dir", "console_log_file", "console_log_level", "console_log_simple",
                     "metadata_title", "metadata_author", "metadata_description", "metadata_license",
                     "metadata_tags", "metadata_usage_hint", "metadata_thumbnail", "metadata_merged_from",
                     "metadata_trigger_phrase", "metadata_preprocessor", "metadata_is_negative_embedding"),
                    "has no effect on training"),
}  # fmt: skip
