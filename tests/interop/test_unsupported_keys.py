"""No parameter of sd-scripts is called unsupported if a setting does the same.

Every unsupported key is compared with all settings by its words, translated to the terms of the settings. If they
resemble each other, ROWS says why the setting is not equivalent; a new key, or a new setting that resembles one, has
to be reviewed in the same way. The comparison finds the setting of every converted key.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from dreambooth.interop.kohya.keys import BUCKET_SETTINGS, RUN_SETTINGS, UNSUPPORTED_DATASET_KEYS
from dreambooth.interop.kohya.training_config import _DIRECT_SETTINGS
from dreambooth.interop.kohya.unsupported_keys import (
    NO_EFFECT_KEYS,
    UNSUPPORTED_NETWORK_ARGUMENTS,
    UNSUPPORTED_TRAINING_KEYS,
)
from dreambooth.settings import CONCEPT, SETTINGS

UNSUPPORTED = {
    **UNSUPPORTED_TRAINING_KEYS,
    **NO_EFFECT_KEYS,
    **UNSUPPORTED_NETWORK_ARGUMENTS,
    **UNSUPPORTED_DATASET_KEYS,
}

# Keys with an import function of their own.
IMPORTED = {
    "network_weights": "lora_start",
    "dim_from_weights": "lora_unet_rank",
    "network_dropout": "lora_unet_dropout",
    "no_token_padding": "pad_tokens",
    "network_dim": "lora_unet_rank",
    "network_alpha": "lora_unet_alpha",
    "unet_lr": "learning_rate",
    "text_encoder_lr": "txt_learning_rate",
    "learning_rate_te1": "txt_learning_rate",
    "train_text_encoder": "stop_text_encoder",
    "stop_text_encoder_training": "stop_text_encoder",
    "optimizer_type": "optimizer",
    "optimizer_args": "optimizer_args",
    "lr_scheduler": "lr_scheduler",
    "lr_scheduler_type": "lr_scheduler",
    "lr_scheduler_min_lr_ratio": "learning_rate_min",
    "max_train_steps": "max_train_steps",
    "train_batch_size": "train_batch_size",
    "save_n_epoch_ratio": "save_embedding_every",
    "save_last_n_epochs_state": "snapshots_to_keep",
    "save_last_n_steps_state": "snapshots_to_keep",
    "save_precision": "half_model",
    "validate_every_n_steps": "validation_every",
    "validate_every_n_epochs": "validation_every",
    "validation_split": "validation_share",
    "fp8_base": "base_precision",
    "fp8_base_unet": "base_precision",
    "xformers": "attention",
    "mem_eff_attn": "attention",
    "fused_backward_pass": "fused_backward",
    "cpu_offload_checkpointing": "offload_activations",
    "sample_sampler": "scheduler",
    "sample_prompts": "concept.save_sample_prompt",
    "num_repeats": "concept.num_repeats",
    "is_reg": "concept.regularization",
    "masked_loss": "masked_loss",
    "metadata_file": "concept.metadata_file",
    "caption_extension": "concept.caption_extension",
    "keep_tokens_separator": "concept.keep_separator",
    "secondary_separator": "concept.second_separator",
    "enable_wildcard": "concept.wildcards",
    "bucket_no_upscale": "bucket_no_upscale",
    "resolution": "resolution",
}

# Words of sd-scripts and abbreviations -> words of the settings' labels; "" is ignored.
TERMS: dict[str, str] = {
    "network": "lora", "module": "lora", "loraplus": "lora", "dim": "rank", "weights": "start lora", "padding": "pad",
    "te": "text encoder", "te1": "text encoder", "te2": "text encoder", "txt": "text encoder",
    "tenc": "text encoder", "lr": "learning rate", "sample": "preview", "samples": "preview", "sampler": "scheduler",
    "state": "snapshot", "resume": "snapshot", "validate": "validation", "split": "share", "reg": "regularization",
    "fp16": "half precision", "bf16": "precision", "fp8": "precision", "attn": "attention", "xformers": "attention",
    "mem": "memory", "train": "training", "every": "frequency", "min": "minimum", "max": "maximum",
    "ip": "input perturbation", "caption": "caption", "captions": "caption", "weighted": "weight", "last": "keep",
    "dir": "directory", "args": "arguments", "secondary": "second", "flip": "hflip", "reso": "side",
    **dict.fromkeys(("a", "as", "at", "base", "by", "custom", "data", "disable", "enable", "for", "from", "in", "into",
                     "is", "like", "model", "n", "no", "num", "of", "on", "per", "put", "the", "this", "to", "use",
                     "when"), ""),
}  # fmt: skip
TERMS["precision"] = "precision half"
# Words that are significant only together with another one.
COMMON_WORDS = {"directory", "epoch", "file", "maximum", "minimum", "save", "scale", "step", "training"}
MAX_FREQUENCY = 6  # a word in at most this many settings is significant by itself


def words(text: str) -> set[str]:
    terms = " ".join(TERMS.get(word, word) for word in re.findall(r"[a-z0-9]+", text.lower()))
    return {word.removesuffix("s") for word in terms.split() if not word.isdigit()}


SETTING_WORDS = {
    **{key: (words(key), words(f"{key} {setting.label}")) for key, setting in SETTINGS.items()},
    **{f"concept.{key}": (words(key), words(f"{key} {setting.label}")) for key, setting in CONCEPT.items()},
}
FREQUENCY = Counter(word for key_words, _ in SETTING_WORDS.values() for word in key_words)


def resembling(key: str) -> set[str]:
    """The settings that share a rare word of their own name with ``key``, or any two with their name and label."""
    own_words = words(key)
    return {
        setting
        for setting, (key_words, label_words) in SETTING_WORDS.items()
        if len(own_words & label_words) > 1
        or any(FREQUENCY[word] <= MAX_FREQUENCY for word in (own_words & key_words) - COMMON_WORDS)
    }


RATES = """imagic_learning_rate learning_rate learning_rate_min lora_learning_rate lora_txt_learning_rate lr_cycles
           lr_factor lr_power lr_scale_pos lr_scheduler lr_warmup_steps txt_learning_rate"""
UNET_ADAPTERS = "lora_unet_alpha lora_unet_dropout lora_unet_rank train_unet"
TEXT_ENCODER = """lora_txt_alpha lora_txt_dropout lora_txt_learning_rate lora_txt_rank lora_txt_weight stop_text_encoder
                  tenc_grad_clip_norm tenc_weight_decay txt_learning_rate"""
DROPOUTS = """caption_dropout concept.caption_dropout concept.tag_dropout lora_txt_dropout lora_unet_dropout
              tag_dropout"""
SIZES = "lora_conv_alpha lora_conv_rank lora_txt_alpha lora_txt_rank lora_unet_alpha lora_unet_rank"
PRECISIONS = "base_precision ema_precision full_mixed_precision half_model mixed_precision"
LORA_FILES = "infer_ema lora_start save_ema save_lora_after save_lora_cancel save_lora_during"
SNAPSHOTS = "save_state_after save_state_cancel save_state_during snapshots_to_keep"
NOISE = "multires_noise_discount multires_noise_iterations offset_noise"
GRADIENTS = "gradient_accumulation_steps gradient_checkpointing gradient_set_to_none max_grad_norm tenc_grad_clip_norm"
CAPTIONS = """caption_dropout concept.caption_dropout concept.caption_extension concept.caption_lines
              concept.default_caption weighted_captions"""
FREQUENCIES = """epoch_pause_frequency epoch_pause_time num_train_epochs preview_every_steps save_embedding_every
                 save_every_steps save_preview_every validation_every"""
SEEDS = "concept.sample_seed sanity_seed seed"

# (unsupported keys, settings that resemble them, why those differ)
ROWS = [
    ("pretrained_model_name_or_path log_tracker_name wandb_run_name metadata_title", "custom_model_name",
     "the name of files that are made: output_name"),
    ("scale_weight_norms train_norm", "max_grad_norm tenc_grad_clip_norm",
     "norms of gradients; not of weights, nor normalization layers"),
    ("base_weights base_weights_multiplier", LORA_FILES,
     "a LoRA merged into the frozen model is not part of the trained file; lora_start continues to train it"),
    ("weights", LORA_FILES, "an embedding of textual inversion"),
    ("noise_offset_random_strength ip_noise_gamma_random_strength adaptive_noise_scale "
     "scale_v_pred_loss_like_noise_pred", NOISE, "amounts of noise that are the same in each step"),
    ("noise_offset_random_strength ip_noise_gamma_random_strength", "imagic_strength", "that of an edit of one image"),
    ("ip_noise_gamma_random_strength", "input_perturbation min_snr_gamma",
     "ip_noise_gamma itself, the same in each step; and a weight of timesteps"),
    ("scale_v_pred_loss_like_noise_pred", "prior_loss_scale", "decreases the weight of class images over the epochs"),
    ("huber_scale", "huber_c huber_schedule", "the threshold, not the loss' factor"),
    ("full_fp16 fp16_master_weights_and_gradients", PRECISIONS, "full training in half precision is in bf16 only"),
    ("no_half_vae save_precision", PRECISIONS,
     "of what is trained and of checkpoints; save_precision is unsupported for LoRA files alone"),
    ("lr_scheduler_timescale lr_decay_steps", RATES + " scheduler", "no schedule has such a parameter"),
    ("lr_decay_steps", "ema_decay tenc_weight_decay weight_decay", "decay of something else"),
    ("optimizer_schedulefree_wrapper schedulefree_wrapper_args offload_optimizer_device offload_optimizer_nvme_path "
     "fused_optimizer_groups", "optimizer optimizer_args fused_backward",
     "not a kind of optimizer, nor one of its arguments"),
    ("block_lr down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold", RATES, "of the UNet as a whole"),
    ("block_lr_zero_threshold zero_stage", "huber_c zero_terminal_snr", "zeros and thresholds of something else"),
    ("loraplus_lr_ratio loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio",
     RATES + " " + UNET_ADAPTERS + " " + TEXT_ENCODER, "one rate for both factors of an adapter"),
    ("save_last_n_epochs save_last_n_steps", FREQUENCIES + " snapshots_to_keep concept.save_infer_steps",
     "limit the number of LoRA files too, which no setting does; that of snapshots is imported"),
    ("save_last_n_epochs save_last_n_steps", "concept.keep_separator concept.keep_tokens keep_tokens ema_on_cpu "
     "save_thumbnail channels_last", "keep something else"),
    ("skip_until_initial_step skip_cache_check", "clip_skip", "skips layers"),
    ("resume save_state_to_huggingface resume_from_huggingface", SNAPSHOTS,
     "a run is resumed on command, from snapshots of this program"),
    ("max_validation_steps validation_seed", "concept.validation_data_dir validation_every validation_share",
     "how often and with which images; neither with how many of them, nor their order"),
    ("max_validation_steps", "concept.max_steps max_train_steps", "limits of training"),
    ("validation_seed", SEEDS, "validation images depend on their content"),
    ("dataset_class", "concept.class_data_dir", "a class of Python"),
    ("fp16_master_weights_and_gradients", LORA_FILES + " " + GRADIENTS, "files and gradients, not their precision"),
    ("ddp_static_graph", "cuda_graphs", "the graph of autograd, which processes need not look through in each step"),
    ("ddp_gradient_as_bucket_view", GRADIENTS, "how gradients are used, not where they are in memory"),
    ("ddp_gradient_as_bucket_view", "bucket_max_side bucket_min_side bucket_no_upscale bucket_rule bucket_step",
     "buckets of images"),
    ("vae_batch_size text_encoder_batch_size", "sample_batch_size train_batch_size",
     "batches of training and of class images"),
    ("cache_text_encoder_outputs cache_text_encoder_outputs_to_disk text_encoder_batch_size", TEXT_ENCODER,
     "how the text encoder is trained"),
    ("huggingface_repo_type", "lora_type loss_type", "types of something else"),
    ("offload_optimizer_device offload_optimizer_nvme_path offload_param_device offload_param_nvme_path",
     "offload_fraction offload_activations", "DeepSpeed's, which this program does not use"),
    ("no_metadata metadata_title metadata_author metadata_description metadata_license metadata_tags "
     "metadata_usage_hint metadata_thumbnail metadata_merged_from metadata_trigger_phrase metadata_preprocessor "
     "metadata_is_negative_embedding", "concept.metadata_file", "metadata of images, not of results"),
    ("metadata_tags", "concept.shuffle_tags concept.tag_dropout shuffle_tags tag_dropout", "tags of captions"),
    ("metadata_thumbnail", "save_thumbnail", "a sample of the run, not a given image"),
    ("metadata_is_negative_embedding", "concept.class_negative_prompt concept.save_sample_negative_prompt "
     "save_embedding_every imagic_learning_rate imagic_steps", "negative prompts, and no embedding"),
    ("caption_separator", CAPTIONS + " concept.keep_separator concept.second_separator",
     "separators in addition to the comma, which itself is fixed"),
    ("caption_dropout_every_n_epochs", CAPTIONS + " " + DROPOUTS + " " + FREQUENCIES,
     "dropout by probability, not in whole epochs"),
    ("token_warmup_min token_warmup_step", "lr_warmup_steps", "warm-up of the learning rate"),
    ("rank_dropout module_dropout rank_dropout_scale", DROPOUTS,
     "of individual values (network_dropout), not of whole ranks or adapters"),
    ("rank_dropout rank_dropout_scale", "lora_ranks", "how many ranks there are, not how many are left out in a step"),
    ("dropout", DROPOUTS, "unsupported in networks.lora alone, where it has no effect; LyCORIS' is converted"),
    ("rank_dropout rank_dropout_scale block_alphas conv_block_dims conv_block_alphas", SIZES,
     "of a component as a whole"),
    ("use_conv_cp disable_conv_cp", "lora_conv_alpha lora_conv_rank use_lora_extended", "sizes, not a decomposition"),
    ("full_matrix", "full_mixed_precision", "a precision"),
    ("bypass_mode", "mode_scale", "the density of timesteps"),
    ("noise_offset_type", "lora_type loss_type multires_noise_discount multires_noise_iterations offset_noise",
     "only says which of the other parameters the GUI shows"),
    ("block_size", "sample_batch_size train_batch_size", "the unit of DyLoRA's ranks"),
]  # fmt: skip
REVIEWED: dict[str, set[str]] = {}
for keys, settings, _ in ROWS:
    for key in keys.split():
        REVIEWED.setdefault(key, set()).update(settings.split())


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_no_setting_is_equivalent_to_an_unsupported_key(key: str) -> None:
    unknown = resembling(key) - REVIEWED.get(key, set())
    assert not unknown, f"{key} resembles {sorted(unknown)}: import it, or explain in ROWS why it differs"


def test_the_comparison_finds_the_settings_of_all_converted_keys() -> None:
    pairs = {**_DIRECT_SETTINGS, **RUN_SETTINGS, **BUCKET_SETTINGS, **IMPORTED}
    assert {key for key, setting in pairs.items() if setting not in resembling(key)} == set()


def test_reviewed_keys_and_settings_exist() -> None:
    assert REVIEWED.keys() - UNSUPPORTED.keys() == set()
    assert set().union(*REVIEWED.values()) - SETTING_WORDS.keys() == set()
    assert IMPORTED.keys() & UNSUPPORTED.keys() <= {"save_precision"}, "converted, and called unsupported"
    assert (_DIRECT_SETTINGS.keys() | RUN_SETTINGS.keys() | BUCKET_SETTINGS.keys()) & UNSUPPORTED.keys() == set()
