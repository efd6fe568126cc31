"""Import of OneTrainer's timestep distribution, its two parameters, and the timestep shift."""

from __future__ import annotations

from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.nested_values import NestedValues
from dreambooth.interop.onetrainer.config_file import is_stable_diffusion

_TIMESTEPS = 1000
_SAMPLINGS = {"UNIFORM": "uniform", "LOGIT_NORMAL": "logit_normal", "HEAVY_TAIL": "mode"}
_FLAT_WITHOUT_WEIGHT = ("SIGMOID", "INVERTED_PARABOLA")


def import_timesteps(report: ImportReport, config: NestedValues) -> None:
    """Range, density and shift of the timesteps."""
    for key, setting in (("min_noising_strength", "min_timestep"), ("max_noising_strength", "max_timestep")):
        report.set(setting, int(_TIMESTEPS * config.number(key)), config.source(key))
    _import_density(report, config)
    _import_shift(report, config)
    report.set("flow_loss_weighting", "none")


def _import_density(report: ImportReport, config: NestedValues) -> None:
    """The parameters mean something else in each distribution (ModelSetupNoiseMixin._get_timestep_discrete)."""
    kind, weight, bias = (
        config.word("timestep_distribution"), config.number("noising_weight"), config.number("noising_bias"),
    )  # fmt: skip
    is_flat = (kind in _FLAT_WITHOUT_WEIGHT and weight == 0) or (kind == "BETA" and weight == bias == 1)
    sampling = "uniform" if is_flat else _SAMPLINGS.get(kind)
    if sampling is None:
        report.unsupported.append(
            f"timestep_distribution = {kind} (noising_weight {weight:g}, noising_bias {bias:g}): timesteps are sampled "
            "uniformly between min_timestep and max_timestep."
        )
    report.set("timestep_sampling", sampling or "uniform", config.source("timestep_distribution") if sampling else "")
    if sampling == "logit_normal":
        report.set("timestep_mean", bias, config.source("noising_bias"))
        report.set("timestep_std", weight + 1, config.source("noising_weight"))
    elif sampling == "mode":
        report.set("mode_scale", weight, config.source("noising_weight"))


def _import_shift(report: ImportReport, config: NestedValues) -> None:
    """For Stable Diffusion, OneTrainer ignores dynamic_timestep_shifting."""
    is_dynamic = not is_stable_diffusion(config) and config.flag("dynamic_timestep_shifting")
    report.set("resolution_shift", is_dynamic, "dynamic_timestep_shifting" if is_dynamic else "")
    shift = config.number("timestep_shift")  # not used with a dynamic one
    report.set("timestep_shift", 1.0 if is_dynamic else shift, "" if is_dynamic else config.source("timestep_shift"))
    is_whole = report.settings.get("min_timestep") == 0 and report.settings.get("max_timestep") == _TIMESTEPS
    if not is_whole and (is_dynamic or shift != 1):
        report.unsupported.append(
            "min_noising_strength, max_noising_strength: OneTrainer shifts timesteps out of this range; here they stay "
            "in it."
        )
