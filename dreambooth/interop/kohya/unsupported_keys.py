"""Parameters of kohya's sd-scripts without a counterpart here, and what that means."""

from __future__ import annotations

_OF_THE_MODEL = "is read off the checkpoint when a model is created"
_LOGS = "runs are logged in the model's own folder"
_HUB = "nothing is sent anywhere"
_FORM = "LoRA files are half precision safetensors"

WITHOUT_COUNTERPART = {
    "pretrained_model_name_or_path": "the model is chosen when it is created (create NAME --source ...)",
    "vae": "the VAE is chosen when a model is created",
    "scale_weight_norms": "the norm of adapters is not limited",
    "base_weights": "merge it into the model first (generate-ckpt --lora)",
    "base_weights_multiplier": "merge it into the model first (generate-ckpt --lora)",
    "noise_offset_random_strength": "the offset is the same in each step",
    "ip_noise_gamma_random_strength": "the strength is the same in each step",
    "adaptive_noise_scale": "the offset does not depend on the image",
    "huber_scale": "it is 1 here",
    "scale_v_pred_loss_like_noise_pred": "the loss of a v-prediction model is not rescaled",
    "v_pred_like_loss": "no v-prediction loss is added to that of the noise",
    "full_fp16": "small updates are lost in fp16; mixed precision keeps weights in fp32",
    "fp8_base": "the frozen model is held in the precision of the run",
    "fp8_base_unet": "the frozen model is held in the precision of the run",
    "lr_scheduler_timescale": "no schedule falls with the inverse square root of the step",
    "lr_decay_steps": "schedules that fall do so until the end of the run",
    "optimizer_schedulefree_wrapper": "other optimizers have no schedule-free form; choose Schedule-Free AdamW",
    "schedulefree_wrapper_args": "other optimizers have no schedule-free form; choose Schedule-Free AdamW",
    "block_lr": "the unet has one rate",
    "save_last_n_epochs": "all LoRA files and checkpoints are kept; only snapshots are limited in number",
    "save_last_n_steps": "all LoRA files and checkpoints are kept; only snapshots are limited in number",
    "sample_at_first": "previews begin after the first epoch that asks for them",
    "initial_epoch": "resumed runs know where they are",
    "initial_step": "resumed runs know where they are",
    "skip_until_initial_step": "resumed runs know where they are",
    "resume": "snapshots of other programs can't be read",
    "max_validation_steps": "validation uses all images that are held out",
    "output_dir": "results land in the WebUI's own folders",
    **dict.fromkeys(("deepspeed", "zero_stage", "zero3_init_flag", "zero3_save_16bit_model", "offload_optimizer_device",
                     "offload_optimizer_nvme_path", "offload_param_device", "offload_param_nvme_path"),
                    "several processes: accelerate launch -m dreambooth"),
    **dict.fromkeys(("weighting_scheme", "logit_mean", "logit_std", "mode_scale"),
                    "timesteps are sampled uniformly between the earliest and the latest"),
    **dict.fromkeys(("token_string", "init_word", "num_vectors_per_token", "weights", "use_object_template",
                     "use_style_template"), "textual inversion is not trained"),
    "dataset_class": "images are read from folders only",
    "conditioning_data_dir": "no ControlNet is trained; masks lie beside their images, see Masked loss",
    "fp16_master_weights_and_gradients": "small updates are lost in fp16; mixed precision keeps weights in fp32",
}  # fmt: skip

# Arguments of the network (network_args) without a counterpart; others are not known at all.
NETWORK_ARGUMENTS = {
    "rank_dropout": "only values are dropped (network_dropout), not whole ranks",
    "module_dropout": "only values are dropped (network_dropout), not whole adapters",
    "rank_dropout_scale": "only values are dropped (network_dropout), not whole ranks",
    **dict.fromkeys(("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"),
                    "the unet's blocks have one rank and one alpha"),
    **dict.fromkeys(("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold"),
                    "the unet's blocks have one learning rate"),
    **dict.fromkeys(("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"),
                    "an adapter's parts have one learning rate (no LoRA+)"),
    **dict.fromkeys(("use_tucker", "use_cp", "use_conv_cp", "disable_conv_cp"),
                    "adapters beside convolutions are trained without Tucker decomposition"),
    **dict.fromkeys(("train_norm", "use_scalar", "decompose_both", "full_matrix", "bypass_mode", "rs_lora",
                     "unbalanced_factorization"), "adapters have no such option here"),
    "preset": "Use LoRA Extended chooses the layers",
    "wd_on_output": "DoRA learns the lengths of inputs (wd_on_output=False)",
    "dropout": "networks.lora has no such argument; it is called network_dropout",
}  # fmt: skip

# What is done here anyway, or has no bearing on what is learned.
NEEDLESS = {
    **dict.fromkeys(("v2", "v_parameterization", "sdxl"), _OF_THE_MODEL),
    **dict.fromkeys(("cache_latents", "cache_latents_to_disk", "vae_batch_size", "skip_cache_check"),
                    "latents are always encoded once and kept"),
    **dict.fromkeys(("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "text_encoder_batch_size"),
                    "embeddings are kept wherever captions don't change"),
    **dict.fromkeys(("logging_dir", "log_prefix", "log_with", "log_config", "log_tracker_name", "log_tracker_config",
                     "wandb_api_key", "wandb_run_name"), _LOGS),
    **dict.fromkeys(("huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo", "huggingface_token",
                     "huggingface_repo_visibility", "async_upload", "save_state_to_huggingface",
                     "resume_from_huggingface"), _HUB),
    **dict.fromkeys(("save_model_as", "save_precision", "use_safetensors"), _FORM),
    **dict.fromkeys(("max_data_loader_n_workers", "persistent_data_loader_workers", "lowram", "highvram",
                     "torch_compile", "dynamo_backend", "no_half_vae", "ddp_timeout",
                     "ddp_gradient_as_bucket_view", "ddp_static_graph", "cpu_offload_checkpointing",
                     "disable_mmap_load_safetensors", "fused_backward_pass", "fused_optimizer_groups",
                     "blocks_to_swap"),
                    "changes nothing of what is learned"),
    **dict.fromkeys(("no_metadata", "training_comment", "output_config", "config_file", "debug_dataset",
                     "tokenizer_cache_dir", "console_log_file", "console_log_level", "console_log_simple",
                     "metadata_title", "metadata_author", "metadata_description", "metadata_license",
                     "metadata_tags", "metadata_usage_hint", "metadata_thumbnail", "metadata_merged_from",
                     "metadata_trigger_phrase", "metadata_preprocessor", "metadata_is_negative_embedding"),
                    "has no bearing on what is learned"),
}  # fmt: skip
