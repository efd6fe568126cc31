"""Import of the network section of a training with sd-scripts: type, ranks, dropout, starting LoRA.

networks.lora trains the convolutions only with conv_dim; LyCORIS trains them unless its preset or conv_dim=0 excludes
them, with the rank and alpha of the other layers if no others are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.parameters import to_number
from dreambooth.interop.kohya.unsupported_keys import (
    LYCORIS_ARGUMENTS,
    OTHER_ALGORITHMS,
    OTHER_MODULES,
    UNSUPPORTED_NETWORK_ARGUMENTS,
)
from dreambooth.settings import SETTINGS
from dreambooth.settings.arguments import split_arguments

_NETWORK_PARAMETERS = ("network_module", "network_dim", "network_weights", "network_dropout")
_TYPES = {"lora": "LoRA", "locon": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
_MODULE_TYPES = {"networks.loha": "loha", "networks.lokr": "lokr"}
_NO_EFFECT = ("", "0", "0.0", "none", "false", "null")
_WEIGHTS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_dims", "conv_block_dims", "block_alphas")
# LyCORIS' presets -> what is trained differently here ("" if nothing is).
_FULL = "conv_in, conv_out and the time embedding are not trained here"
_PRESETS = {
    "full": _FULL,
    "full-lin": "the linear layers of the UNet's resnet blocks and its time embedding are not trained here",
    "attn-mlp": "",
    "attn-only": "the feed-forward and projection layers are trained here too",
    "unet-only": _FULL,
    "unet-transformer-only": "",
    "unet-convblock-only": "the transformer blocks are trained here too, but not conv_in and conv_out",
}
_PRESETS_WITH_CONVOLUTIONS = ("full", "unet-only", "unet-convblock-only")


def import_network(report: ImportReport, values: Mapping[str, Any]) -> None:
    if not any(values.get(key) for key in _NETWORK_PARAMETERS):
        return
    module = str(values.get("network_module", "")).strip()
    report.set("use_lora", True, f"network_module {module}".strip())
    arguments, invalid = split_arguments(values.get("network_args"))
    report.unsupported += [f'network_args: {text!r} is not of the form "name=value"; ignored.' for text in invalid]
    is_lycoris = not module.startswith("networks.") if module else not LYCORIS_ARGUMENTS.isdisjoint(arguments)
    kind = _import_type(report, module, arguments)
    _import_ranks(report, values, kind, arguments.get("factor", ""))
    _import_convolutions(report, values, arguments, is_lycoris, kind)
    factor = arguments.pop("factor", "-1")
    report.set("lokr_factor", max(0, int(to_number(factor))), "factor" if to_number(factor) > 0 else "")
    _import_dora(report, arguments)
    _import_lora_start(report, values)
    _import_dropout(report, values, arguments)
    for key, value in arguments.items():
        if not _is_neutral(key, value):
            reason = UNSUPPORTED_NETWORK_ARGUMENTS.get(key, "unknown argument, ignored")
            report.unsupported.append(f"network_args {key}={value}: {reason}.")


def _import_type(report: ImportReport, module: str, arguments: dict[str, str]) -> str:
    """The adapter type as LyCORIS calls it. What only LyCORIS has is removed from the arguments of other modules."""
    problem = OTHER_MODULES.get(module, "" if _is_known(module) else "it is not known here")
    if problem:
        report.unsupported.append(f"network_module {module}: {problem}; LoRA is trained instead.")
    if module.startswith("networks."):
        for key in LYCORIS_ARGUMENTS.intersection(arguments):
            value = arguments.pop(key)
            if not _is_neutral(key, value):
                report.unsupported.append(
                    f"network_args {key}={value}: {module} has no such argument; use the network_module lycoris.kohya."
                )
    kind = arguments.pop("algo", _MODULE_TYPES.get(module, "lora")).strip().lower() or "lora"
    if kind not in _TYPES:
        problem = OTHER_ALGORITHMS.get(kind, "this adapter type is not supported")
        report.unsupported.append(f"network_args algo={kind}: {problem}; LoRA is trained instead.")
    report.set("lora_type", _TYPES.get(kind, "LoRA"), "algo" if kind in ("loha", "lokr") else "")
    return kind


def _import_ranks(report: ImportReport, values: Mapping[str, Any], kind: str, factor: str) -> None:
    if kind == "full":  # it has no ranks
        report.unsupported.append("network_dim, network_alpha: algo=full has no ranks; those of the settings are kept.")
        return
    given, alpha = values.get("network_dim", 4), values.get("network_alpha", 1)
    rank, alpha = _limit_rank(kind, given, alpha)
    if rank != given and 0 < to_number(factor) < 4:
        report.unsupported.append(
            f"network_dim: {rank} is the largest rank here; with factor={factor} some layers are not trained whole."
        )
    for part in ("unet", "txt"):
        report.set(f"lora_{part}_rank", rank, "network_dim" if rank == given else f"network_dim {given}")
        report.set(f"lora_{part}_alpha", alpha, "network_alpha")


def _limit_rank(kind: str, rank: Any, alpha: Any) -> tuple[Any, Any]:
    """Above half of its sides, LyCORIS trains LoKr's large matrix whole: every such rank is the same."""
    limit = SETTINGS["lora_unet_rank"].high or 0
    if kind != "lokr" or to_number(rank) <= limit:
        return rank, alpha
    return int(limit), to_number(alpha) * limit / to_number(rank)


def _import_convolutions(
    report: ImportReport, values: Mapping[str, Any], arguments: dict[str, str], is_lycoris: bool, kind: str
) -> None:
    given = {key: arguments.pop(key).strip() for key in ("conv_dim", "conv_alpha") if key in arguments}
    preset = arguments.pop("preset", "full").strip() or "full" if is_lycoris else ""
    if is_lycoris:
        rank = given.get("conv_dim") or values.get("network_dim", 4)
        alpha = given.get("conv_alpha") or values.get("network_alpha", 1)
        _warn_preset(report, preset)
    else:
        rank, alpha = given.get("conv_dim") or 0, given.get("conv_alpha") or 1
    excluded = is_lycoris and preset.lower() in _PRESETS and preset.lower() not in _PRESETS_WITH_CONVOLUTIONS
    trained = to_number(rank) > 0 and not excluded
    source = f"preset {preset}" if excluded or (trained and not given) else "conv_dim" if given else ""
    report.set("use_lora_extended", trained, source)
    if not trained or kind == "full":
        return
    rank, alpha = _limit_rank(kind, rank, alpha)
    report.set("lora_conv_rank", rank, "conv_dim" if "conv_dim" in given else "network_dim")
    report.set("lora_conv_alpha", alpha, "conv_alpha" if "conv_alpha" in given else "network_alpha")


def _warn_preset(report: ImportReport, preset: str) -> None:
    if preset.lower() not in _PRESETS:
        report.unsupported.append(
            f"network_args preset={preset}: this choice of layers is not supported; the layers of preset=full are "
            "trained."
        )
    elif _PRESETS[preset.lower()]:
        report.unsupported.append(f"network_args preset={preset}: {_PRESETS[preset.lower()]}.")
    if preset.lower().startswith("unet-"):
        report.set("stop_text_encoder", 0, f"preset {preset}")


def _import_dora(report: ImportReport, arguments: dict[str, str]) -> None:
    dora = arguments.pop("dora_wd", "").strip().lower() in ("true", "1")
    report.set("lora_dora", dora, "dora_wd" if dora else "")
    on_output = arguments.pop("wd_on_output", "True").strip().lower() not in ("false", "0")
    if dora and on_output:
        report.unsupported.append(
            "network_args dora_wd: the magnitudes of DoRA are per input here (wd_on_output=False); LyCORIS' default is "
            "per output."
        )


def _is_known(module: str) -> bool:
    return module in ("", "networks.lora", *_MODULE_TYPES) or module.split(".")[0] in ("lycoris", "locon")


def _is_neutral(key: str, value: str) -> bool:
    """Whether an argument has the value with which it changes nothing."""
    value = value.strip().lower()
    if key in _WEIGHTS:
        return not value or (key.endswith("lr_weight") and all(to_number(part) == 1 for part in value.split(",")))
    if key.startswith("loraplus"):
        return value in _NO_EFFECT or to_number(value) == 1
    return value in _NO_EFFECT


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
