"""Import of the network section of a training with sd-scripts: type, ranks, dropout, starting LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.parameters import parse_arguments, to_number
from dreambooth.interop.kohya.unsupported_keys import UNSUPPORTED_NETWORK_ARGUMENTS

_NETWORK_PARAMETERS = ("network_module", "network_dim", "network_weights", "network_dropout")


def import_network(report: ImportReport, values: Mapping[str, Any]) -> None:
    module = str(values.get("network_module", ""))
    if not any(values.get(key) for key in _NETWORK_PARAMETERS):
        return
    report.set("use_lora", True, f"network_module {module}".strip())
    rank, alpha = values.get("network_dim", 4), values.get("network_alpha", 1)
    for part in ("unet", "txt"):
        report.set(f"lora_{part}_rank", rank, "network_dim")
        report.set(f"lora_{part}_alpha", alpha, "network_alpha")
    arguments = parse_arguments(report, "network_args", values.get("network_args", []))
    kind = arguments.pop("algo", "lora").lower()
    kinds = {"lora": "LoRA", "locon": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
    if kind in kinds:
        report.set("lora_type", kinds[kind], "algo" if kind != "lora" else "")
    else:
        report.unsupported.append(f"network_args algo={kind}: this adapter type is not supported; LoRA is used.")
    if "conv_dim" in arguments:
        report.set("use_lora_extended", True)
        report.set("lora_conv_rank", arguments.pop("conv_dim"), "conv_dim")
        report.set("lora_conv_alpha", arguments.pop("conv_alpha", 1), "conv_alpha")
    if "factor" in arguments:
        report.set("lokr_factor", max(0, int(to_number(arguments.pop("factor")))), "factor")
    if arguments.pop("dora_wd", "").lower() in ("true", "1"):
        report.set("lora_dora", True, "dora_wd")
    if arguments.get("wd_on_output", "").lower() in ("false", "0"):
        arguments.pop("wd_on_output")  # DoRA is always trained in this way
    _import_lora_start(report, values)
    _import_dropout(report, values, arguments)
    for key, value in arguments.items():
        report.unsupported.append(
            f"network_args {key}={value}: {UNSUPPORTED_NETWORK_ARGUMENTS.get(key, 'unknown argument, ignored')}."
        )


def _import_lora_start(report: ImportReport, values: Mapping[str, Any]) -> None:
    """The LoRA from which training starts; without one, adapters are initialized as usual."""
    name = str(values.get("network_weights", "")).strip()
    dim_from_weights = bool(values.get("dim_from_weights"))
    if not name:
        report.set("lora_start", "")
        if dim_from_weights:
            report.unsupported.append("dim_from_weights: network_weights is missing, so the given ranks are used.")
        return
    path = report.resolve_path(name)
    found = path.is_file()
    report.set("lora_start", str(path) if found else name, "network_weights")
    if not found:
        report.unsupported.append(
            f"network_weights: the file {path} does not exist. The run also searches the LoRA folder for this name; if "
            "it is not there either, choose the file under Start from LoRA."
        )
    report.dim_from_weights = dim_from_weights


def _import_dropout(report: ImportReport, values: Mapping[str, Any], arguments: dict[str, str]) -> None:
    """network_dropout, or LyCORIS' network argument that overrides it: the same probability for both components."""
    name, dropout = "network_dropout", values.get("network_dropout", 0)
    if "lycoris" in str(values.get("network_module", "")).lower() and "dropout" in arguments:
        name, dropout = "network_args dropout", arguments.pop("dropout")
    report.set("lora_unet_dropout", dropout, name if to_number(dropout) else "")
    report.set("lora_txt_dropout", dropout, name if to_number(dropout) else "")
    if not to_number(dropout):
        return
    kind = "DoRA" if report.settings.get("lora_dora") else report.settings.get("lora_type", "LoRA")
    if kind != "LoRA":
        report.unsupported.append(
            f"{name} = {dropout!r}: LyCORIS trains {kind} without dropout, but here it is applied to the adapters. Set "
            "both LoRA dropouts to 0 to train as LyCORIS does."
        )
    if values.get("dim_from_weights"):
        report.unsupported.append(
            f"{name} = {dropout!r}: sd-scripts ignore it with dim_from_weights, but here it is applied. Set both LoRA "
            "dropouts to 0 to train as sd-scripts do."
        )
