"""Import of OneTrainer's adapters: type, ranks, layers, dropout, and the LoRA to start from."""

from __future__ import annotations

import os

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.settings.training import ATTENTION, DEFAULT_LAYERS

_KINDS = {"LORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr"}
_ATTENTION_LAYERS, _ATTENTION_ALONE, _ALL_LAYERS = "attn-mlp", "attn-only", "full"


def import_network(report: ImportReport, config: NestedValues) -> None:
    if not report.settings.get("use_lora"):
        config.skip(_NETWORK_KEYS)
        if _layers(config) != _ALL_LAYERS:
            report.unsupported.append(f"layer_filter = {_layers(config)}: full training trains all layers of the UNet.")
        return
    kind = config.word("peft_type")
    if kind not in _KINDS:
        report.unsupported.append(f"peft_type = {kind}: this adapter type is not supported; LoRA is used.")
    report.set("lora_type", _KINDS.get(kind, "LoRA"), config.source("peft_type"))
    rank_key = "lokr_dim" if kind == "LOKR" and "lokr_dim" in config else "lora_rank"
    rank, alpha = config.number(rank_key), config.number("lora_alpha")
    for part in ("unet", "txt"):
        report.set(f"lora_{part}_rank", rank, config.source(rank_key) if part == "unet" else "")
        report.set(f"lora_{part}_alpha", alpha, config.source("lora_alpha") if part == "unet" else "")
        dropout_source = config.source("dropout_probability") if part == "unet" else ""
        report.set(f"lora_{part}_dropout", config.number("dropout_probability"), dropout_source)
    _import_layers(report, config, rank, alpha)
    _import_dora(report, config, kind)
    if kind == "LOKR":
        factor = config.number("lokr_decompose_factor")
        report.set("lokr_factor", max(0, int(factor)), config.source("lokr_decompose_factor"))
    else:
        config.skip(key for key in _NETWORK_KEYS if key.startswith("lokr_"))
    start = config.text("lora_model_name")
    path = report.resolve_path(start) if start else None
    found = path is not None and os.path.isfile(path)
    report.set("lora_start", str(path) if found else start, config.source("lora_model_name") if start else "")
    if start and not found:
        report.unsupported.append(
            f"lora_model_name: the file {path} does not exist. Choose the file under Start from LoRA."
        )


def _layers(config: NestedValues) -> str:
    """Which layers of the UNet are trained: a preset of OneTrainer, or the filter itself."""
    preset, pattern = config.text("layer_filter_preset").lower(), config.text("layer_filter")
    if preset in (_ATTENTION_LAYERS, _ATTENTION_ALONE):
        return preset
    patterns = {"": _ALL_LAYERS, "attentions": _ATTENTION_LAYERS, "attn": _ATTENTION_ALONE}
    return patterns.get(pattern, pattern)


def _import_layers(report: ImportReport, config: NestedValues, rank: float, alpha: float) -> None:
    layers = _layers(config)
    source = next((key for key in ("layer_filter_preset", "layer_filter") if key in config), "")
    report.set("use_lora_extended", layers == _ALL_LAYERS, source)
    report.set("lora_layers", ATTENTION if layers == _ATTENTION_ALONE else DEFAULT_LAYERS)
    if layers == _ALL_LAYERS:
        report.set("lora_conv_rank", rank)
        report.set("lora_conv_alpha", alpha)
        report.unsupported.append(
            "layer_filter: adapters of all layers are trained, except for the UNet's first and last convolution and "
            "its time and size embedding."
        )
    elif layers not in (_ATTENTION_LAYERS, _ATTENTION_ALONE):
        report.unsupported.append(
            f"layer_filter = {layers}: adapters can't be chosen by the names of layers; those of all attention blocks "
            "are trained."
        )


def _import_dora(report: ImportReport, config: NestedValues, kind: str) -> None:
    key = "lokr_weight_decompose" if kind == "LOKR" else "lora_decompose"
    on_output = config.flag("lokr_dora_on_output" if kind == "LOKR" else "lora_decompose_output_axis")
    dora = config.flag(key)
    report.set("lora_dora", dora, config.source(key))
    if dora and on_output:
        report.unsupported.append(f"{key}: DoRA magnitudes are per input here, in this configuration per output.")


_NETWORK_KEYS = (
    "peft_type", "lora_rank", "lora_alpha", "lora_decompose", "lora_decompose_output_axis", "dropout_probability",
    "lora_model_name", "lora_weight_dtype", "lokr_dim", "lokr_decompose_both", "lokr_decompose_factor",
    "lokr_use_tucker", "lokr_weight_decompose", "lokr_dora_on_output", "lokr_full_matrix",
)  # fmt: skip
