"""The family and prediction type of a source: from its tensors, its metadata, a forward pass, or the user's choice.

The two variants of Stable Diffusion 2 have the same tensors. If the metadata has no prediction type, the unet is run on
pure noise: an epsilon model predicts about the input, a velocity model something far from it (the WebUI does the same).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dreambooth.checkpoints.family import Family, candidate_families
from dreambooth.checkpoints.layout import split
from dreambooth.checkpoints.ldm_names import TensorRef
from dreambooth.checkpoints.modules import disk_shapes, load_parameters, meta_module
from dreambooth.errors import UserError
from dreambooth.settings.creation import AUTO
from dreambooth.tensor_files import Tensors

log = logging.getLogger("dreambooth.checkpoints")


# The mean of (model_output - input) is below the first value for velocity models, above the second for epsilon models.
_MAX_VELOCITY, _MIN_EPSILON = -1.0, -0.25


def recognize_family(file: Tensors, model_type: str = AUTO, prediction: str = AUTO) -> tuple[Family, str]:
    """The family, and "epsilon" or "v_prediction". UserError for other files, or one that is not ``model_type``."""
    families = candidate_families(file)
    if model_type != AUTO:
        chosen = [family for family in families if family.model_type.lower() == model_type.lower()]
        if not chosen:
            title = families[0].title
            raise UserError(f"model_type: {file.path} is a {title} checkpoint, not {model_type}: choose auto.")
        families = chosen
    if prediction == AUTO:
        prediction = _declared_prediction(families[0], file) or AUTO
    if len(families) > 1:
        if prediction == AUTO:
            prediction = _measured_prediction(families[0], file) or _prediction_by_file_name(file)
        families = [family for family in families if family.default_prediction == prediction]
    return families[0], prediction if prediction != AUTO else families[0].default_prediction


def component_configs(family: Family, file: Tensors) -> dict[str, dict[str, Any]]:
    """The configs of the components. UserError with the path of the file."""
    return _call(family.configs, file)


def _declared_prediction(family: Family, file: Tensors) -> str | None:
    return _call(family.prediction_type, file)


def _call(method: Callable[..., Any], file: Tensors) -> Any:
    """Call ``method`` with shapes and metadata; its UserErrors get the path of the file."""
    try:
        return method({key: file.shape(key) for key in file}, file.metadata)
    except UserError as error:
        raise UserError(f"{file.path}: {error}.") from error


def _prediction_by_file_name(file: Tensors) -> str:
    """The last resort: names of 512 px models usually contain "512" or "base"."""
    is_velocity = not re.search(r"512|base", file.path.stem)
    log.warning(
        "%s: could not detect whether it is a 768 px (v-prediction) or 512 px model; assuming %s px. "
        "If that is wrong, create the model again with model type %s.",
        file.path, *((768, "v2x-512") if is_velocity else (512, "v2x")),
    )  # fmt: skip
    return "v_prediction" if is_velocity else "epsilon"


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
