"""Keys of OneTrainer's configurations without an equivalent setting, each with an explanation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dreambooth.interop.nested_values import NestedValues

CONCEPT_DEFAULTS: dict[str, Any] = {
    "name": "", "path": "", "seed": 0, "enabled": True, "type": "STANDARD", "include_subdirectories": False,
    "image_variations": 1, "text_variations": 1, "balancing": 1.0, "balancing_strategy": "REPEATS", "loss_weight": 1.0,
    "concept_stats": {}, "__version": 2, "image.__version": 0, "text.__version": 0,
    "image.enable_crop_jitter": True, "image.enable_random_flip": False, "image.enable_fixed_flip": False,
    "image.enable_random_rotate": False, "image.enable_fixed_rotate": False, "image.random_rotate_max_angle": 0.0,
    "image.enable_random_brightness": False, "image.enable_fixed_brightness": False,
    "image.random_brightness_max_strength": 0.0, "image.enable_random_contrast": False,
    "image.enable_fixed_contrast": False, "image.random_contrast_max_strength": 0.0,
    "image.enable_random_saturation": False, "image.enable_fixed_saturation": False,
    "image.random_saturation_max_strength": 0.0, "image.enable_random_hue": False, "image.enable_fixed_hue": False,
    "image.random_hue_max_strength": 0.0, "image.enable_resolution_override": False,
    "image.resolution_override": "512", "image.enable_random_circular_mask_shrink": False,
    "image.enable_random_mask_rotate_crop": False,
    "text.prompt_source": "sample", "text.prompt_path": "", "text.enable_tag_shuffling": False,
    "text.tag_delimiter": ",", "text.keep_tags_count": 1, "text.tag_dropout_enable": False,
    "text.tag_dropout_mode": "FULL", "text.tag_dropout_probability": 0.0,
    "text.tag_dropout_special_tags_mode": "NONE", "text.tag_dropout_special_tags": "",
    "text.tag_dropout_special_tags_regex": False, "text.caps_randomize_enable": False,
    "text.caps_randomize_mode": "capslock, title, first, random", "text.caps_randomize_probability": 0.0,
    "text.caps_randomize_lowercase": False,
}  # fmt: skip


def _on(*keys: str) -> Callable[[NestedValues], bool]:
    return lambda values: any([values.flag(key) for key in keys])


def _splits_otherwise(values: NestedValues) -> bool:
    delimiter = str(values.get("text.tag_delimiter") or "").strip()
    splits = values.flag("text.enable_tag_shuffling") or values.flag("text.tag_dropout_enable")
    return splits and delimiter != ","


# Key -> (whether a concept uses it, explanation).
UNSUPPORTED_CONCEPT_KEYS: dict[str, tuple[Callable[[NestedValues], bool], str]] = {
    "image.enable_crop_jitter": (_on("image.enable_crop_jitter"), "images are cropped at the center"),
    "image.enable_fixed_flip": (_on("image.enable_fixed_flip"), "images are flipped at random or not at all"),
    "image.enable_random_rotate": (
        _on("image.enable_random_rotate", "image.enable_fixed_rotate"), "images are not rotated"),
    "image.enable_random_brightness": (
        _on("image.enable_random_brightness", "image.enable_fixed_brightness"), "brightness is not changed"),
    "image.enable_random_contrast": (
        _on("image.enable_random_contrast", "image.enable_fixed_contrast"), "contrast is not changed"),
    "image.enable_random_saturation": (
        _on("image.enable_random_saturation", "image.enable_fixed_saturation"), "saturation is not changed"),
    "image.enable_random_hue": (_on("image.enable_random_hue", "image.enable_fixed_hue"), "hue is not changed"),
    "image.enable_resolution_override": (
        _on("image.enable_resolution_override"), "all concepts have the resolution of the run"),
    "image.enable_random_circular_mask_shrink": (
        _on("image.enable_random_circular_mask_shrink"), "masks are used as they are"),
    "image.enable_random_mask_rotate_crop": (
        _on("image.enable_random_mask_rotate_crop"), "masks are used as they are"),
    "image_variations": (
        lambda values: values.flag("image.enable_random_flip"),
        "images are flipped anew each time they are used, in OneTrainer once for each cached variation"),
    "text.tag_delimiter": (_splits_otherwise, "captions are split into tags at commas only"),
    "text.caps_randomize_enable": (_on("text.caps_randomize_enable"), "the case of captions is not changed"),
}  # fmt: skip

_DTYPE = "frozen weights have the precision of the run"

# Key -> explanation; reported where the value is not OneTrainer's default.
UNSUPPORTED_KEYS: dict[str, str] = {
    "generalized_offset_noise": "offset noise does not depend on the timestep",
    "normalize_masked_area_loss": "the loss is not divided by the area of the mask",
    "masked_prior_preservation_weight": "there is no prior preservation outside of masks",
    "custom_conditioning_image": "the masked image is the conditioning of inpainting models",
    "loss_scaler": "the loss is not multiplied by the batch size or the accumulation steps",
    "force_v_prediction": "the prediction type belongs to the model; choose it when you create it (--prediction-type)",
    "force_epsilon_prediction": "the prediction type belongs to the model; choose it when you create it "
    "(--prediction-type)",
    "force_circular_padding": "seamless tiles are not supported",
    "multi_gpu": "for several GPUs use accelerate launch -m dreambooth",
    "additional_embeddings": "embeddings are not trained",
    "embedding_learning_rate": "embeddings are not trained",
    "preserve_embedding_norm": "embeddings are not trained",
    "custom_learning_rate_scheduler": "only the schedules listed in the settings are supported",
    "scheduler_params": "only the schedules listed in the settings are supported",
    "save_filename_prefix": "file names consist of Custom model name and the step",
    "save_skip_first": "the first save is after the first interval",
    "sample_skip_first": "the first preview is after the first interval",
    "layer_filter_regex": "adapters can't be chosen by the names of layers",
    "lokr_decompose_both": "this adapter option is not supported",
    "lokr_use_tucker": "convolution adapters are trained without Tucker decomposition",
    "lokr_full_matrix": "this adapter option is not supported",
    "quantization": _DTYPE,
}  # fmt: skip

# Where files are, what is logged, and how much memory is used: no effect on the trained weights.
NO_EFFECT_KEYS = frozenset({
    "__version", "debug_mode", "debug_dir", "workspace_dir", "cache_dir", "huggingface_cache_dir", "offline_mode",
    "tensorboard", "tensorboard_expose", "tensorboard_always_on", "tensorboard_port", "continue_last_backup",
    "prevent_overwrites", "include_train_config", "device_indexes", "gradient_reduce_precision",
    "fused_gradient_reduce", "async_gradient_reduce", "async_gradient_reduce_buffer", "output_model_format",
    "async_offloading", "enable_async_offloading", "enable_activation_offloading",
    "latent_caching", "clear_cache_before_training", "dataloader_threads", "train_device", "temp_device",
    "fallback_train_dtype", "enable_autocast_cache", "only_cache", "frames", "vb_loss_strength",
    "dynamic_timestep_shifting", "text_encoder_sequence_length", "text_encoder_2_sequence_length",
    "text_encoder_3_layer_skip", "text_encoder_4_layer_skip", "embedding_weight_dtype", "bundle_additional_embeddings",
    "lora_decompose_norm_epsilon", "oft_block_size", "oft_block_share", "oft_scaled", "oft_coft", "coft_eps",
    "lokr_vec_trick", "sample_definition_file_name", "sample_image_format", "sample_video_format",
    "sample_audio_format", "samples_to_tensorboard", "non_ema_sampling", "backup_before_save",
    "lokr_dim", "lokr_weight_decompose", "lokr_dora_on_output", "lokr_decompose_factor",
    "unmasked_probability", "attention_mechanism", "learning_rate_cycles", "huber_delta", "loss_weight_strength",
})  # fmt: skip
# Parts of a configuration without an effect on the trained weights; secrets are never shown.
NO_EFFECT_PARTS = frozenset({
    "vae", "prior", "transformer", "unconditional_transformer", "text_encoder_3", "text_encoder_4", "effnet_encoder",
    "decoder", "decoder_text_encoder", "decoder_vqgan", "embedding", "embeddings", "cloud", "secrets",
    "optimizer_defaults", "quantization",
})  # fmt: skip
