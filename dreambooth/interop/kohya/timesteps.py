"""Import the timestep sampling of sd-scripts for flow-matching models. Its scripts for Stable Diffusion have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.interop.kohya.import_report import ImportReport

_SHIFTS = ("discrete_flow_shift", "training_shift")
TIMESTEP_KEYS = frozenset(
    {"timestep_sampling", "sigmoid_scale", *_SHIFTS, "weighting_scheme", "logit_mean", "logit_std", "mode_scale"}
)
_DEFAULT_SHIFT = 3.0  # of sd-scripts, for models that have timestep_sampling
# timestep_sampling -> ours. With "sigma", weighting_scheme chooses.
_SAMPLINGS = {"uniform": "uniform", "sigmoid": "sigmoid", "shift": "sigmoid", "flux_shift": "sigmoid",
              "flux2_shift": "sigmoid"}  # fmt: skip
_BY_RESOLUTION = ("flux_shift", "flux2_shift")  # which are the same for equal numbers of tokens


def import_timesteps(report: ImportReport, values: Mapping[str, Any]) -> None:
    """Density, shift and loss weight of timesteps; uniform and unweighted where the file says nothing."""
    scheme = values.get("weighting_scheme", "uniform")
    kind = values.get("timestep_sampling", "sigma")
    if kind not in (*_SAMPLINGS, "sigma"):
        report.unsupported.append(f"timestep_sampling = {kind!r} is not supported; sigma is used.")
        kind = "sigma"
    by_scheme = scheme if scheme in ("logit_normal", "mode") else "uniform"
    source = "timestep_sampling" if kind != "sigma" else "weighting_scheme"
    report.set("timestep_sampling", _SAMPLINGS.get(kind, by_scheme), source if source in values else "")
    _import_shift(report, values, kind)
    weighting = scheme if scheme in ("sigma_sqrt", "cosmap") and _weights_losses(values) else "none"
    report.set("flow_loss_weighting", weighting, "weighting_scheme" if weighting != "none" else "")
    if "logit_mean" in values:
        report.set("timestep_mean", _negated(values["logit_mean"]), "logit_mean, which counts from noise to image")
    for key, setting in (
        ("logit_std", "timestep_std"), ("sigmoid_scale", "sigmoid_scale"), ("mode_scale", "mode_scale"),
    ):  # fmt: skip
        if key in values:
            report.set(setting, values[key], key)


def _import_shift(report: ImportReport, values: Mapping[str, Any], kind: str) -> None:
    by_resolution = kind in _BY_RESOLUTION
    report.set("resolution_shift", by_resolution, "timestep_sampling" if by_resolution else "")
    key = next((key for key in _SHIFTS if key in values), "")
    if kind not in ("shift", "sigma") or (not key and "timestep_sampling" not in values):
        report.set("timestep_shift", 1.0)
        return
    report.set("timestep_shift", values.get(key, _DEFAULT_SHIFT), key or "default of sd-scripts")


def _weights_losses(values: Mapping[str, Any]) -> bool:
    """Raw predictions are not weighted."""
    return values.get("model_prediction_type") != "raw"


def _negated(value: Any) -> Any:
    return -value if isinstance(value, (int, float)) and not isinstance(value, bool) else value
