"""The family and prediction type of a source, and what says so.

The prediction type is the user's choice, what the file or the ``.yaml`` beside it states, or that of the family. The
two variants of Stable Diffusion 2 have the same tensors: if nothing is stated, the unet is run on pure noise. An
epsilon model predicts about the input, a velocity model something far from it (the WebUI does the same).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.models.family import Family
from dreambooth.models.layout import TensorRef
from dreambooth.models.recognition import Recognition, component_configs
from dreambooth.models.sd.distilled import distillation_of
from dreambooth.models.sd.keys import EMA, ZERO_SNR_SCHEDULE, conv_in_channels, is_pruned
from dreambooth.models.sd.ldm_config import LDM_CONFIG, LdmConfig, mismatch, read_ldm_config
from dreambooth.models.sd.prediction import (
    SELECTED,
    TITLES,
    Claim,
    claims,
    contradictions,
    has_zero_terminal_snr,
    is_named_velocity,
)
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import Tensors

log = logging.getLogger("dreambooth.checkpoints")


# The mean of (model_output - input) is below the first value for velocity models, above the second for epsilon models.
_MAX_VELOCITY, _MIN_EPSILON = -1.0, -0.25

_USUAL = "the usual type of this family: the file doesn't say"


def recognize(file: Tensors, families: Sequence[Family], prediction: str) -> Recognition:
    """Which of ``families`` an open source belongs to. UserError for one that can't be trained."""
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
        _reason(family, used),
        tuple(dict.fromkeys([*warnings, *filter(None, [distillation_of(file)])])),
        (*file.notes, *_ema_notes(file, config)),
        schedule,
        config.sample_size if config else 0,
        {LDM_CONFIG: config.text} if config else {},
    )


def _reason(family: Family, used: Claim) -> str:
    place = used.place if used.place in (SELECTED, _USUAL) else f"from {used.place}"
    return f"{family.title}, {TITLES[used.prediction]}, {place}"


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
    layout, component, unet = family.layout(configs), family.denoiser, family.make_module("unet", configs["unet"])
    shapes = component.disk_shapes(unet)

    def get_tensor(name: str) -> torch.Tensor:
        original = layout.original(TensorRef(component.name, name))
        if original is None:
            raise KeyError(name)
        key, tensor_slice = original
        names = [ref.name for ref in tensor_slice.refs]
        return tensor_slice.transform.split(file.get(key), [shapes[part] for part in names])[names.index(name)]

    component.load_parameters(unet, get_tensor, torch.float32)
    return unet.eval()
