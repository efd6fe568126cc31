"""Values that a source's own configs state: metadata of a single file, config.json files of a diffusers folder."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from dreambooth.errors import UserError
from dreambooth.models.sd.keys import CONFIG_KEY, PREDICTION_TYPES

# Config fields that shapes don't determine, read from the source's own configs.
CONFIG_FIELDS = {
    "unet": ("attention_head_dim", "norm_num_groups", "addition_time_embed_dim"),
    "vae": ("norm_num_groups", "scaling_factor"),
    "text_encoder": ("num_attention_heads", "hidden_act"),
    "text_encoder_2": ("num_attention_heads", "hidden_act"),
    "scheduler": ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "rescale_betas_zero_snr",
                  "timestep_spacing"),
}  # fmt: skip


def declared_prediction(metadata: Mapping[str, str]) -> str:
    """The prediction type in the source's own config; "" if it has none. UserError for an unknown one."""
    return config_overrides(metadata).get("prediction_type", "")


_NO_OVERRIDES: dict[str, Any] = {part: {} for part in CONFIG_FIELDS}


def config_overrides(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The source's own config values, validated. UserError when one is invalid."""
    overrides = copy.deepcopy(_NO_OVERRIDES)
    try:
        declared = json.loads(metadata.get(CONFIG_KEY, "{}"))
        for part, fields in CONFIG_FIELDS.items():
            values = declared.get(part, {}).items()
            overrides[part] = {name: _validated(name, value) for name, value in values if name in fields}
        if "sample_size" in declared:
            overrides["sample_size"] = size = int(declared["sample_size"])
            if not 8 <= size <= 256:
                raise ValueError(f"sample_size {size} is outside 8 to 256")
        if "prediction_type" in declared:
            overrides["prediction_type"] = prediction_type = str(declared["prediction_type"])
            if prediction_type not in PREDICTION_TYPES:
                raise ValueError(f"prediction_type {prediction_type} is not {' or '.join(PREDICTION_TYPES)}")
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"its config (metadata {CONFIG_KEY} of a file, config.json of a folder) has an invalid value: {error}"
        ) from error
    return overrides


_CHOICES = {
    "hidden_act": ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"),
    "beta_schedule": ("scaled_linear", "linear"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def _validated(name: str, value: Any) -> Any:
    """The value converted to the type of the config field ``name``; ValueError or TypeError when it is invalid."""
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} {value} is not one of {', '.join(_CHOICES[name])}")
        return value
    if name == "rescale_betas_zero_snr":
        return bool(value)
    if name in ("beta_start", "beta_end", "scaling_factor"):
        number = float(value)
        if not 0 < number < 100:
            raise ValueError(f"{name} {value} is not between 0 and 100")
        return number
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else int(value)
