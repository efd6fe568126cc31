"""The keys of a dataset configuration of kohya's sd-scripts."""

from __future__ import annotations

from typing import Any

# Key -> (allowed types, default of sd-scripts). Subsets inherit these from [general] and [[datasets]].
SUBSET_KEYS: dict[str, tuple[tuple[type, ...], Any]] = {
    "num_repeats": ((int,), 1),
    "class_tokens": ((str,), ""),
    "caption_extension": ((str,), ".caption"),
    "shuffle_caption": ((bool,), False),
    "keep_tokens": ((int,), 0),
    "keep_tokens_separator": ((str,), ""),
    "secondary_separator": ((str,), ""),
    "enable_wildcard": ((bool,), False),
    "flip_aug": ((bool,), False),
    "caption_prefix": ((str,), ""),
    "caption_suffix": ((str,), ""),
    "caption_dropout_rate": ((int, float), 0.0),
    "caption_tag_dropout_rate": ((int, float), 0.0),
    "alpha_mask": ((bool,), False),
    "caption_separator": ((str,), ","),
    "color_aug": ((bool,), False),
    "random_crop": ((bool,), False),
    "face_crop_aug_range": ((list,), None),
    "caption_dropout_every_n_epochs": ((int,), 0),
    "token_warmup_min": ((int,), 1),
    "token_warmup_step": ((int, float), 0),
    "custom_attributes": ((dict,), None),
    "resize_interpolation": ((str,), ""),
    "cache_info": ((bool,), False),
}
SUBSET_ONLY_KEYS = {
    "image_dir": ((str,), ""),
    "is_reg": ((bool,), False),
    "metadata_file": ((str,), ""),
    "conditioning_data_dir": ((str,), ""),
}
DATASET_KEYS: dict[str, tuple[tuple[type, ...], Any]] = {
    "resolution": ((int, list, str), None),
    "batch_size": ((int,), 1),
    "enable_bucket": ((bool,), False),
    "min_bucket_reso": ((int,), 256),
    "max_bucket_reso": ((int,), 1024),
    "bucket_reso_steps": ((int,), 64),
    "bucket_no_upscale": ((bool,), False),
    "validation_split": ((int, float), 0.0),
    "validation_seed": ((int,), None),
    "network_multiplier": ((int, float), 1.0),
}
GENERAL_KEYS = SUBSET_KEYS | DATASET_KEYS  # allowed in [general] and [[datasets]]
ALL_SUBSET_KEYS = SUBSET_KEYS | SUBSET_ONLY_KEYS
# Dataset keys that are not supported -> explanation.
UNSUPPORTED_DATASET_KEYS = {
    "caption_separator": "captions are split at commas only",
    "color_aug": "color augmentation is not supported",
    "random_crop": "images are cropped at the center",
    "face_crop_aug_range": "images are cropped at the center",
    "caption_dropout_every_n_epochs": "captions are dropped with a probability, see Caption dropout",
    "token_warmup_min": "all tags are used from the first step",
    "token_warmup_step": "all tags are used from the first step",
    "custom_attributes": "custom attributes are not used",
    "resize_interpolation": "images are resized with Lanczos",
    "cache_info": "no cache is written to image folders",
    "validation_seed": "the validation split depends on the content of the images",
    "network_multiplier": "all images have the same weight",
}
# sd-scripts key -> setting of the whole run, with per-concept overrides.
RUN_SETTINGS = {
    "shuffle_caption": "shuffle_tags",
    "keep_tokens": "keep_tokens",
    "caption_tag_dropout_rate": "tag_dropout",
    "caption_dropout_rate": "caption_dropout",
    "flip_aug": "hflip",
}
# sd-scripts key -> setting, if buckets are enabled.
BUCKET_SETTINGS = {
    "bucket_reso_steps": "bucket_step",
    "min_bucket_reso": "bucket_min_side",
    "max_bucket_reso": "bucket_max_side",
}
