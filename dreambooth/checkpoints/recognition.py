"""The family and prediction type of a source, and what says so.

The prediction type is the user's choice, what the file or the ``.yaml`` beside it states, or that of the family. The
two variants of Stable Diffusion 2 have the same tensors: if nothing is stated, the unet is run on pure noise. An
epsilon model predicts about the input, a velocity model something far from it (the WebUI does the same).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dreambooth.checkpoints.distilled import distillation_of
from dreambooth.checkpoints.family import Family, candidate_families
from dreambooth.checkpoints.layout import split
from dreambooth.checkpoints.ldm_config import LdmConfig, mismatch, read_ldm_config
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.modules import disk_shapes, load_parameters, meta_module
from dreambooth.checkpoints.prediction import (
    SELECTED,
    TITLES,
    Claim,
    claims,
    contradictions,
    has_zero_terminal_snr,
    is_named_velocity,
)
from dreambooth.checkpoints.sdxl import is_pruned
from dreambooth.checkpoints.stable_diffusion import EMA, ZERO_SNR_SCHEDULE, conv_in_channels
from dreambooth.errors import UserError
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import Tensors

log = logging.getLogger("dreambooth.checkpoints")


# The mean of (model_output - input) is below the first value for velocity models, above the second for epsilon models.
_MAX_VELOCITY, _MIN_EPSILON = -1.0, -0.25

_USUAL = "the usual type of this family: the file doesn't say"


@dataclass(frozen=True)
class Recognition:
    """What a source is.

    ``warnings``: what users should know before they train it. ``notes``: what was changed when it was read. One line
    each.
    """

    family: Family
    prediction: str
    place: str  # what says the prediction type
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    schedule: Mapping[str, Any] = field(default_factory=dict)  # of the scheduler config, where it is not the usual one
    sample_size: int = 0  # side of the latents, where it is not the usual one
    ldm_config: LdmConfig | None = None  # the ``.yaml`` beside the checkpoint

    @property
    def reason(self) -> str:
        """Family and prediction type, and what says so, for users."""
        place = self.place if self.place in (SELECTED, _USUAL) else f"from {self.place}"
        return f"{self.family.title}, {TITLES[self.prediction]}, {place}"


def recognize(file: Tensors, model_type: str = AUTO, prediction: str = AUTO) -> Recognition:
    """Recognize an open source. UserError for one that can't be trained, or that is not ``model_type``."""
    families = candidate_families(file)
    if model_type != AUTO:
        chosen = [family for family in families if family.model_type.lower() == model_type.lower()]
        if not chosen:
            title = families[0].title
            raise UserError(f"model_type: {file.path} is a {title} checkpoint, not {model_type}: choose auto.")
        families = chosen
    config, warnings = _ldm_config(file, families[0])
    stated = _claims(file, config, prediction, warnings)
    used = _choose(families, file, stated, prediction, warnings)
    family = next((family for family in families if family.default_prediction == used.prediction), families[0])
    warnings += contradictions(used, stated)
    if used.place == _USUAL and used.prediction == "epsilon" and is_named_velocity(file):
        warnings.append(
            f"The name of {file.path.name} suggests v-prediction, but neither the file nor a .yaml beside it says so: "
            "noise prediction (epsilon) is assumed. If it is a v-prediction model, create it with the prediction type "
            "v_prediction."
        )
    schedule = dict(config.schedule) if config else {}
    if has_zero_terminal_snr(file) or (config and config.zero_snr):
        if used.prediction == "v_prediction":
            schedule |= ZERO_SNR_SCHEDULE
        else:
            warnings.append(
                "It is marked as trained with zero terminal SNR, which needs v-prediction: this was ignored."
            )
    if is_pruned({key: file.shape(key) for key in file}):
        warnings.append(
            "Its UNet is a pruned one of SDXL (as SSD-1B, Segmind Vega and KOALA): LoRAs trained on it fit only models "
            "of this kind."
        )
    return Recognition(
        family,
        used.prediction,
        used.place,
        tuple(dict.fromkeys([*warnings, *filter(None, [distillation_of(file)])])),
        (*file.notes, *_ema_notes(file, config)),
        schedule,
        config.sample_size if config else 0,
        config,
    )


def recognize_family(file: Tensors, model_type: str = AUTO, prediction: str = AUTO) -> tuple[Family, str]:
    """The family, and "epsilon" or "v_prediction". UserError as for :func:`recognize`."""
    recognition = recognize(file, model_type, prediction)
    return recognition.family, recognition.prediction


def component_configs(family: Family, file: Tensors) -> dict[str, dict[str, Any]]:
    """The configs of the components. UserError with the path of the file."""
    return _call(family.configs, file)


def _ldm_config(file: Tensors, family: Family) -> tuple[LdmConfig | None, list[str]]:
    """The ``.yaml`` beside the file, if it can be that of this model; and what users should know of it."""
    config, warnings = read_ldm_config(file.path)
    if config is None:
        return None, warnings
    reason = mismatch(config, family.model_type, conv_in_channels({key: file.shape(key) for key in file}))
    if not reason:
        return config, warnings
    warnings.append(
        f"{config.path.name} beside the checkpoint is of another model: {reason}. It was ignored. Remove or rename it, "
        "since a WebUI reads it too."
    )
    return None, warnings


def _ema_notes(file: Tensors, config: LdmConfig | None) -> list[str]:
    if config is None or not config.use_ema or not any(key.startswith(EMA) for key in file):
        return []
    return [f"{config.path.name} says use_ema: the regular weights are trained; extract_ema also gets the others."]


def _claims(file: Tensors, config: LdmConfig | None, prediction: str, warnings: list[str]) -> list[Claim]:
    """What states the prediction type. A type that can't be trained is only reported if the user has chosen another."""
    try:
        return claims(file, config)
    except UserError as error:
        if prediction == AUTO:
            raise UserError(f"{file.path}: {error}.") from error
        warnings.append(f"{error}. {TITLES[prediction]} was selected and is used.")
        return []


def _choose(
    families: Sequence[Family], file: Tensors, stated: Sequence[Claim], prediction: str, warnings: list[str]
) -> Claim:
    if prediction != AUTO:
        return Claim(prediction, SELECTED)
    is_disputed = len({claim.prediction for claim in stated}) > 1
    if stated and not (is_disputed and len(families) > 1):
        return stated[0]
    if len(families) == 1:
        return Claim(families[0].default_prediction, _USUAL)
    measured = _measured_prediction(families[0], file)
    if measured:
        return Claim(measured, "a test of its UNet")
    return stated[0] if stated else _by_file_name(file, warnings)


def _call(method: Callable[..., Any], file: Tensors) -> Any:
    """Call ``method`` with shapes and metadata; its UserErrors get the path of the file."""
    try:
        return method({key: file.shape(key) for key in file}, file.metadata)
    except UserError as error:
        raise UserError(f"{file.path}: {error}.") from error


def _by_file_name(file: Tensors, warnings: list[str]) -> Claim:
    """The last resort: names of 512 px models usually contain "512" or "base"."""
    is_velocity = not re.search(r"512|base", file.path.stem)
    assumed, other = (768, "v2x-512") if is_velocity else (512, "v2x")
    warnings.append(
        f"Could not detect whether it is a 768 px (v-prediction) or 512 px model; assuming {assumed} "
        f"px. If that is wrong, create the model again with model type {other}."
    )
    return Claim("v_prediction" if is_velocity else "epsilon", "a guess by the file name")


@torch.no_grad()
def _measured_prediction(family: Family, file: Tensors) -> str | None:
    """The prediction type by a forward pass; None when the output fits neither, as with random weights."""
    config = component_configs(family, file)
    try:
        unet = _load_unet(family, file, config)
        noisy_latents = torch.full((1, config["unet"]["in_channels"], 8, 8), 0.5)
        context = torch.full((1, 2, config["unet"]["cross_attention_dim"]), 0.5)
        model_output = unet(noisy_latents, torch.tensor([999]), context, return_dict=False)[0]
        difference = (model_output - noisy_latents[:, :4]).mean().item()
    except (RuntimeError, ValueError, KeyError):  # an invalid or incomplete file; extracting it gives the message
        log.debug("%s: the unet could not be run", file.path, exc_info=True)
        return None
    if difference < _MAX_VELOCITY:
        return "v_prediction"
    return "epsilon" if difference > _MIN_EPSILON else None


def _load_unet(family: Family, file: Tensors, configs: Mapping[str, Mapping[str, Any]]) -> torch.nn.Module:
    layout, unet = family.layout(configs), meta_module("unet", configs["unet"])
    shapes = disk_shapes("unet", unet)

    def get_tensor(name: str) -> torch.Tensor:
        key = layout.key(TensorRef("unet", name))
        if key is None:
            raise KeyError(name)
        return split(file.get(key), [shapes[name]])[0]

    load_parameters(unet, "unet", get_tensor, torch.float32)
    return unet.eval()
