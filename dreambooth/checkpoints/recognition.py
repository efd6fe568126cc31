"""Which family a source is of and what its unet predicts: from its tensors, what it says, a trial, or as told.

Stable Diffusion 2's two kinds have the same tensors. Where a file says nothing, its unet is asked: shown pure noise,
the velocity that it should predict is far from that noise, the noise itself is not (the WebUI decides so too).
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


# The mean of (answer - noise) for a unet that predicts velocity lies below the one, for noise above the other.
_VELOCITY, _NOISE = -1.0, -0.25


def recognize_family(file: Tensors, model_type: str = AUTO, prediction: str = AUTO) -> tuple[Family, str]:
    """The family, and "epsilon" or "v_prediction". UserError when the file is no such thing, or not as it was said."""
    found = candidate_families(file)
    if model_type != AUTO:
        wanted = [family for family in found if family.model_type.lower() == model_type.lower()]
        if not wanted:
            raise UserError(f"model_type: {file.path} is a {found[0].title} checkpoint, not {model_type}: choose auto.")
        found = wanted
    told = prediction if prediction != AUTO else _told(found[0], file)
    if len(found) > 1:
        told = told or _tried(found[0], file) or _named(file)
        found = [family for family in found if family.default_prediction == told]
    return found[0], told or found[0].default_prediction


def component_configs(family: Family, file: Tensors) -> dict[str, dict[str, Any]]:
    """The components' configs. UserError that names the file."""
    return _asked(family.configs, file)


def _told(family: Family, file: Tensors) -> str | None:
    return _asked(family.prediction_type, file)


def _asked(question: Callable[..., Any], file: Tensors) -> Any:
    try:
        return question({key: file.shape(key) for key in file}, file.metadata)
    except UserError as error:
        raise UserError(f"{file.path}: {error}.") from error


def _named(file: Tensors) -> str:
    """The last resort: people call the 768 px models so."""
    velocity = not re.search(r"512|base", file.path.stem)
    log.warning(
        "%s: tensors don't say whether it was made for 768 px (v-prediction) or 512 px; taken for %s px. "
        "If that is wrong, create it again with the model type %s.",
        file.path, *((768, "v2x-512") if velocity else (512, "v2x")),
    )  # fmt: skip
    return "v_prediction" if velocity else "epsilon"


@torch.no_grad()
def _tried(family: Family, file: Tensors) -> str | None:
    """What the unet's own answer tells; None when it answers like neither kind, as random weights do."""
    config = component_configs(family, file)
    try:
        unet = _unet(family, file, config)
        x = torch.full((1, config["unet"]["in_channels"], 8, 8), 0.5)
        context = torch.full((1, 2, config["unet"]["cross_attention_dim"]), 0.5)
        distance = (unet(x, torch.tensor([999]), context, return_dict=False)[0] - x[:, :4]).mean().item()
    except (RuntimeError, ValueError, KeyError):  # an odd or incomplete file: whoever extracts it says so
        log.debug("%s could not be tried", file.path, exc_info=True)
        return None
    if distance < _VELOCITY:
        return "v_prediction"
    return "epsilon" if distance > _NOISE else None


def _unet(family: Family, file: Tensors, configs: Mapping[str, Mapping[str, Any]]) -> torch.nn.Module:
    layout, unet = family.layout(configs), meta_module("unet", configs["unet"])
    shapes = disk_shapes("unet", unet)

    def values(name: str) -> torch.Tensor:
        key = layout.key(TensorRef("unet", name))
        if key is None:
            raise KeyError(name)
        return split(file.get(key), [shapes[name]])[0]

    load_parameters(unet, "unet", values, torch.float32)
    return unet.eval()
