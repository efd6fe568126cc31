"""Parameters of kohya's sd-scripts without a counterpart here, and what that means."""

from __future__ import annotations

_OF_THE_MODEL = "is read off the checkpoint when a model is created"
_LOGS = "runs are logged in the model's own folder"
_HUB = "nothing is sent anywhere"
_FORM = "LoRA files are half precision safetensors"

WITHOUT_COUNTERPART = {
    "pretrained_model_name_or_path": "the model is chosen when it is created (create NAME --source ...)",
    "vae": "the VAE is chosen when a model is created",
    "network_weights": "a run starts from the model, or goes on from a snapshot",
    "dim_from_weights": "a run starts from the model, or goes on from a snapshot",
    "network_dropout": "adapters are trained without dropout",
    "scale_weight_norms": "adapters are not held to a norm",
    "base_weights": "merge it into the model first (generate-ckpt --lora)",
    "base_weights_multiplier": "merge it into the model first (generate-ckpt --lora)",
    "noise_offset_random_strength": "the offset is the same in each step",
    "ip_noise_gamma_random_strength": "the strength is the same in each step",
    "adaptive_noise_scale": "the offset does not follow the picture",
    "huber_scale": "it is 1 here",
    "scale_v_pred_loss_like_noise_pred": "losses are not scaled so",
    "v_pred_like_loss": "losses are not mixed so",
    "full_fp16": "loses what is learnt; mixed precision keeps weights in fp32",
    "fp8_base": "the frozen model is held in the precision of the run",
    "fp8_base_unet": "the frozen model is held in the precision of the run",
    "lr_scheduler_args": "schedules have the parameters that Settings shows",
    "lr_scheduler_type": "schedules are those of the list",
    "lr_scheduler_timescale": "schedules have the parameters that Settings shows",
    "lr_scheduler_min_lr_ratio": "see Minimum learning rate, of the annealing schedules",
    "lr_decay_steps": "schedules have the parameters that Settings shows",
    "optimizer_schedulefree_wrapper": "choose Schedule-Free AdamW",
    "schedulefree_wrapper_args": "choose Schedule-Free AdamW",
    "block_lr": "the unet has one rate",
    "save_n_epoch_ratio": "see Save model frequency",
    "save_last_n_epochs": "all LoRA files are kept",
    "save_last_n_steps": "all LoRA files are kept",
    "save_last_n_epochs_state": "see Snapshots to keep",
    "save_last_n_steps_state": "see Snapshots to keep",
    "sample_at_first": "previews begin after the first epoch that asks for them",
    "initial_epoch": "resumed runs know where they are",
    "initial_step": "resumed runs know where they are",
    "skip_until_initial_step": "resumed runs know where they are",
    "resume": "snapshots of other programs can't be read",
    "validate_every_n_steps": "see Validation frequency",
    "validate_every_n_epochs": "see Validation frequency",
    "max_validation_steps": "see Validation frequency",
    "output_dir": "results land in the WebUI's own folders",
    "deepspeed": "several processes: accelerate launch -m dreambooth",
    "stop_text_encoder_training": "see Step ratio of text encoder training",
}

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
                     "torch_compile", "dynamo_backend", "mem_eff_attn", "no_half_vae", "ddp_timeout",
                     "ddp_gradient_as_bucket_view", "ddp_static_graph", "cpu_offload_checkpointing",
                     "disable_mmap_load_safetensors", "fused_backward_pass", "blocks_to_swap"),
                    "changes nothing of what is learned"),
    **dict.fromkeys(("no_metadata", "training_comment", "output_config", "config_file", "debug_dataset",
                     "tokenizer_cache_dir"), "has no bearing on what is learned"),
    "debiased_estimation": "see debiased_estimation_loss",
}  # fmt: skip
