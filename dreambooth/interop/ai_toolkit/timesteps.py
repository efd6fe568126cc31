"""Import of the timesteps of an ai-toolkit job: their range, and for flow-matching models their density and shift."""

from __future__ import annotations

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues

_TIMESTEPS = 1000
_FLOW_KINDS = ("sigmoid", "linear", "weighted", "shift", "flux_shift", "lumina2_shift")
_SINGLE_TIMESTEPS = ("one_step", "two_step", "four_step", "eight_step", "next_sample")  # for all models
_UNIFORM = "timesteps are sampled uniformly between min_timestep and max_timestep"


def import_timesteps(report: ImportReport, values: NestedValues) -> None:
    """ai-toolkit counts timesteps from the noisiest one."""
    first, last = values.number("train.min_denoising_steps"), values.number("train.max_denoising_steps")
    is_whole = first <= 0 and last >= _TIMESTEPS - 1
    report.set("min_timestep", 0 if is_whole else _TIMESTEPS - int(last), values.source("train.max_denoising_steps"))
    report.set("max_timestep", _TIMESTEPS - int(first), values.source("train.min_denoising_steps"))
    for key, value in (
        ("timestep_sampling", "uniform"), ("timestep_shift", 1.0), ("resolution_shift", False),
        ("flow_loss_weighting", "none"),
    ):  # fmt: skip
        report.set(key, value)
    kind = values.text("train.timestep_type").lower()
    if kind in _SINGLE_TIMESTEPS:
        report.unsupported.append(f"train.timestep_type = {kind}: {_UNIFORM}.")
    elif values.text("train.noise_scheduler").lower() == "flowmatch":
        _import_flow(report, values, kind, is_whole)
    elif kind != "sigmoid":  # ai-toolkit's default
        report.unsupported.append(f"train.timestep_type = {kind}: ai-toolkit uses it for flow-matching models only.")


def _import_flow(report: ImportReport, values: NestedValues, kind: str, is_whole: bool) -> None:
    """As CustomFlowMatchEulerDiscreteScheduler.set_train_timesteps does, from whose timesteps one is drawn."""
    source = values.source("train.timestep_type")
    weighted = [key for key in ("train.linear_timesteps", "train.linear_timesteps2") if values.flag(key)]
    for key in weighted:
        report.unsupported.append(f"{key}: {_UNIFORM}, and all have the same loss weight.")
    if weighted:
        return
    if kind not in _FLOW_KINDS:
        report.unsupported.append(f"train.timestep_type = {kind}: {_UNIFORM}.")
    elif kind == "weighted":
        report.unsupported.append("train.timestep_type = weighted: all timesteps have the same loss weight.")
    elif kind == "sigmoid":
        report.set("timestep_sampling", "sigmoid", source or "default of ai-toolkit")
        report.set("sigmoid_scale", 1.0)
    elif kind != "linear":
        report.set("resolution_shift", True, source)
        report.unsupported.append(
            f"train.timestep_type = {kind}: ai-toolkit shifts timesteps as the model's sampler. If that does not "
            "depend on the resolution, set timestep_shift and switch resolution_shift off."
        )
    if not is_whole and kind not in ("linear", "weighted"):
        report.unsupported.append(
            "train.min_denoising_steps, train.max_denoising_steps: ai-toolkit cuts the density off there; here all of "
            "it is scaled to that range."
        )
