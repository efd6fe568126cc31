"""Import of ai-toolkit's network: type, ranks, dropout, and the LoRA to start from."""

from __future__ import annotations

import os

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.settings import SETTINGS

_KINDS = {"lora": "LoRA", "lierla": "LoRA", "locon": "LoRA", "c3lier": "LoRA", "lycoris": "LoRA", "dora": "LoRA",
          "lokr": "LoKr", "loha": "LoHa"}  # fmt: skip
_FULL_RANK = 1024  # of LoKr: no layer of Stable Diffusion needs more for a full matrix


def import_network(report: ImportReport, values: NestedValues) -> None:
    if not report.settings.get("use_lora"):
        return
    kind = values.text("network.type").lower()
    if kind not in _KINDS:
        report.unsupported.append(f"network.type = {kind}: this adapter type is not supported; LoRA is used.")
    report.set("lora_type", _KINDS.get(kind, "LoRA"), values.source("network.type"))
    report.set("lora_dora", kind == "dora", "network.type" if kind == "dora" else "")
    rank_key = next((f"network.{key}" for key in ("rank", "linear") if f"network.{key}" in values), "network.linear")
    rank = values.number(rank_key) or 4
    alpha_key = "network.linear_alpha" if "network.linear_alpha" in values else "network.alpha"
    alpha = values.number(alpha_key) if alpha_key in values else 1.0
    values.skip(["network.rank", "network.linear", "network.alpha", "network.linear_alpha"])
    conv_rank = values.number("network.conv")
    conv_alpha = values.number("network.conv_alpha") if "network.conv_alpha" in values else conv_rank
    values.skip(["network.conv_alpha"])
    if kind == "lokr":
        if values.flag("network.lokr_full_rank"):
            rank, alpha, conv_rank, conv_alpha = _FULL_RANK, 0, _FULL_RANK, 0
        report.set("lokr_factor", max(0, int(values.number("network.lokr_factor"))), "network.lokr_factor")
    for part in ("unet", "txt"):
        report.set(f"lora_{part}_rank", rank, values.source(rank_key) if part == "unet" else "")
        report.set(f"lora_{part}_alpha", alpha, values.source(alpha_key) if part == "unet" else "")
        dropout = values.number("network.dropout")
        report.set(f"lora_{part}_dropout", dropout, values.source("network.dropout") if part == "unet" else "")
    report.set("use_lora_extended", bool(conv_rank), values.source("network.conv"))
    if conv_rank:
        report.set("lora_conv_rank", conv_rank, values.source("network.conv"))
        report.set("lora_conv_alpha", conv_alpha, values.source("network.conv_alpha"))
    report.unsupported.append(
        "network: ai-toolkit also trains adapters of the UNet's time embedding"
        f"{' and of its first and last convolution' if conv_rank else ' and of the shortcuts between its blocks'}."
    )
    _import_file(report, values, "network.pretrained_lora_path", "lora_start")
    _import_file(report, values, "model.assistant_lora_path", "training_adapter")


def _import_file(report: ImportReport, values: NestedValues, name: str, key: str) -> None:
    chosen = values.text(name)
    path = report.resolve_path(chosen) if chosen else None
    found = path is not None and os.path.isfile(path)
    report.set(key, str(path) if found else chosen, values.source(name))
    if chosen and not found:
        report.unsupported.append(f"{name}: the file {path} does not exist. Choose it under {SETTINGS[key].label}.")
