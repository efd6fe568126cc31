"""The keys of a dataset configuration of kohya's sd-scripts."""

from __future__ import annotations

from typing import Any

# What a key may hold, and what it is where nobody says: sd-scripts' own defaults.
OF_SUBSETS: dict[str, tuple[tuple[type, ...], Any]] = {
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
OF_ONE_SUBSET = {
    "image_dir": ((str,), ""),
    "is_reg": ((bool,), False),
    "metadata_file": ((str,), ""),
    "conditioning_data_dir": ((str,), ""),
}
OF_DATASETS: dict[str, tuple[tuple[type, ...], Any]] = {
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
EVERYWHERE = OF_SUBSETS | OF_DATASETS  # allowed in [general] and [[datasets]]
IN_SUBSETS = OF_SUBSETS | OF_ONE_SUBSET
WITHOUT = {
    "caption_separator": "captions are parted at commas only",
    "color_aug": "colours are trained as they are",
    "random_crop": "the crop is the middle of the picture",
    "face_crop_aug_range": "the crop is the middle of the picture",
    "caption_dropout_every_n_epochs": "captions are dropped by share, see Caption dropout",
    "token_warmup_min": "all tags are shown from the first step",
    "token_warmup_step": "all tags are shown from the first step",
    "custom_attributes": "nothing here reads them",
    "resize_interpolation": "pictures are resized with Lanczos",
    "cache_info": "nothing is written among the pictures",
    "validation_seed": "which pictures are held out follows from their content",
    "network_multiplier": "every picture counts the same",
    "conditioning_data_dir": "no ControlNet is trained",
}
# Of these our run has one for all: theirs -> ours.
OF_THE_RUN = {
    "shuffle_caption": "shuffle_tags",
    "keep_tokens": "keep_tokens",
    "caption_tag_dropout_rate": "tag_dropout",
    "caption_dropout_rate": "caption_dropout",
    "flip_aug": "hflip",
}
# Theirs -> ours, where there are buckets.
BUCKETS = {
    "bucket_reso_steps": "bucket_step",
    "min_bucket_reso": "bucket_min_side",
    "max_bucket_reso": "bucket_max_side",
}
