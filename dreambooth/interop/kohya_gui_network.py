"""The LoRA page of kohya_ss: LoRA type and learning rates as sd-scripts' network parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.interop.translation import Translation, to_bool, to_float, to_whole

_BLOCKS = (
    "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims", "block_alphas",
    "conv_block_dims", "conv_block_alphas",
)  # fmt: skip
_DROPOUTS = ("rank_dropout", "module_dropout")
_CONV = ("conv_dim", "conv_alpha")
_LYCORIS = (*_CONV, *_DROPOUTS, "rank_dropout_scale", "train_norm", "use_tucker", "use_cp")
# LoRA type -> (network module, algorithm of LyCORIS, network arguments).
_TYPES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Standard": ("networks.lora", "", (*_BLOCKS, *_DROPOUTS)),
    "Kohya LoCon": ("networks.lora", "", (*_CONV, *_BLOCKS, *_DROPOUTS)),
    "LoRA-FA": ("networks.lora_fa", "", (*_BLOCKS, *_DROPOUTS)),
    "Kohya DyLoRA": ("networks.dylora", "", (*_CONV, *_BLOCKS, *_DROPOUTS, "unit")),
    "Kohya LoHa": ("networks.loha", "", (*_CONV, *_DROPOUTS, "use_tucker")),
    "Kohya LoKr": ("networks.lokr", "", (*_CONV, *_DROPOUTS, "use_tucker", "factor")),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon", (*_LYCORIS, "bypass_mode", "dora_wd", "use_scalar")),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha", (*_LYCORIS, "bypass_mode", "dora_wd", "use_scalar")),
    "LyCORIS/LoKr": (
        "lycoris.kohya", "lokr", (*_LYCORIS, "bypass_mode", "dora_wd", "use_scalar", "factor", "decompose_both"),
    ),
    "LyCORIS/iA3": ("lycoris.kohya", "ia3", (*_CONV, "train_on_input")),
    "LyCORIS/DyLoRA": ("lycoris.kohya", "dylora", (*_CONV, *_DROPOUTS, "use_tucker", "block_size", "train_norm")),
    "LyCORIS/GLoRA": ("lycoris.kohya", "glora", _LYCORIS),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft", _LYCORIS),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft", (*_LYCORIS, "constraint", "rescaled")),
    "LyCORIS/Native Fine-Tuning": ("lycoris.kohya", "full", (*_DROPOUTS, "rank_dropout_scale", "train_norm")),
}  # fmt: skip
_FIELD_OF_ARGUMENT = {"constraint": "constrain", "block_size": "unit"}  # where the names differ
_ALWAYS = ("conv_dim", "conv_alpha")  # also if they are 0
# Value of a field that a file lacks, as on a new page.
_PAGE_DEFAULTS = {"network_dim": 8, "network_alpha": 1, "unet_lr": 1e-4, "text_encoder_lr": 1e-4}


def is_lora(fields: Mapping[str, Any]) -> bool:
    return "LoRA_type" in fields or ("network_dim" in fields and "unet_lr" in fields)


def network_values(fields: Mapping[str, Any], result: Translation) -> dict[str, Any]:
    """Parameters of the network, and the learning rates of its two components."""
    fields = {**_PAGE_DEFAULTS, **fields}
    values: dict[str, Any] = {
        "network_dim": to_whole(fields["network_dim"], 8),
        "network_alpha": to_float(fields["network_alpha"], 1),
        "network_dropout": to_float(fields.get("network_dropout")),
        "scale_weight_norms": to_float(fields.get("scale_weight_norms")),
        "dim_from_weights": to_bool(fields.get("dim_from_weights")),
        "network_weights": str(fields.get("network_weights", "")).strip(),
        **_adapter(fields, result),
        **_rates(fields, result),
    }
    return {key: value for key, value in values.items() if value not in ("", False) or key == "network_alpha"}


def _adapter(fields: Mapping[str, Any], result: Translation) -> dict[str, Any]:
    lora_type = str(fields.get("LoRA_type") or "Standard")
    lora_type = "LyCORIS/LoCon" if lora_type == "LoCon" else lora_type
    if lora_type not in _TYPES:
        known = ", ".join(_TYPES)
        result.unsupported.append(f"LoRA_type = {lora_type!r} is not known; a LoRA is trained. Known types: {known}.")
        lora_type = "Standard"
    module, algorithm, names = _TYPES[lora_type]
    arguments = []
    for name in names:
        value = fields.get(_FIELD_OF_ARGUMENT.get(name, name), "")
        if str(value).strip().lower() in ("", "false", "none") or (name not in _ALWAYS and value in (0, "0")):
            continue
        arguments.append(f"{name}={str(value).strip()}")
    arguments += [f"algo={algorithm}"] if algorithm else []
    preset = str(fields.get("LyCORIS_preset", "full")).strip()
    arguments += [f"preset={preset}"] if algorithm and preset not in ("", "full") else []
    for name in ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"):
        arguments += [f"{name}={fields[name]}"] if to_float(fields.get(name)) else []
    return {"network_module": module, "network_args": arguments}


def _rates(fields: Mapping[str, Any], result: Translation) -> dict[str, Any]:
    """A learning rate of 0 turns its component off, unless both are 0: then learning_rate is that of both."""
    unet, text = to_float(fields["unet_lr"]), to_float(fields["text_encoder_lr"])
    values: dict[str, Any] = {}
    if unet:
        values["unet_lr"] = unet
    if text:
        values["text_encoder_lr"] = text
    values["network_train_unet_only"] = bool(unet and not text)
    values["network_train_text_encoder_only"] = bool(text and not unet)
    if to_float(fields.get("t5xxl_lr")):
        result.ignored.append("t5xxl_lr")
    return values
