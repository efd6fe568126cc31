"""What the UNet of a checkpoint was trained to predict: the places that say so, from the most to the least reliable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from dreambooth.errors import UserError
from dreambooth.models.sd.declared_config import declared_prediction
from dreambooth.models.sd.keys import CONFIG_KEY, V_PREDICTION, ZERO_SNR
from dreambooth.models.sd.ldm_config import LdmConfig
from dreambooth.tensor_files import Tensors

TITLES = {"epsilon": "epsilon", "v_prediction": "v-prediction"}
SELECTED = "as selected"  # the place of the user's choice

_STATED = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction",
           "v-prediction": "v_prediction", "v_pred": "v_prediction", "velocity": "v_prediction"}  # fmt: skip
_UNKNOWN = ("", "none", "null", "unknown")
# Keys of metadata: of modelspec, of ComfyUI, of sd-scripts.
_METADATA_KEYS = ("modelspec.prediction_type", "modelspec.predict_key", "prediction_type")
_IS_VELOCITY = "ss_v_parameterization"
_ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}
_NAMED_VELOCITY = re.compile(r"v[-_ ]?pred|v[-_ ]?prediction", re.IGNORECASE)


class Claim(NamedTuple):
    """A prediction type, and the place that says so."""

    prediction: str
    place: str


def claims(file: Tensors, config: LdmConfig | None) -> list[Claim]:
    """Everything about the file that states its prediction type, the most reliable first.

    UserError for a type other than "epsilon" and "v_prediction".
    """
    found = []
    is_folder = file.path.is_dir()  # its tensors of this kind are made from the scheduler config
    if V_PREDICTION in file and not is_folder:
        found.append(Claim("v_prediction", f"the tensor {V_PREDICTION}"))
    if config and config.unsupported:
        raise _unsupported(config.path.name, config.unsupported)
    implied = [Claim(config.prediction, config.path.name)] if config and config.prediction else []
    if config and not config.is_implied:
        found, implied = [*found, *implied], []
    own = declared_prediction(file.metadata)
    if own:
        found.append(Claim(own, "scheduler_config.json" if is_folder else f"its metadata ({CONFIG_KEY})"))
    return [*found, *_claims_of_metadata(file.metadata), *implied]


def _claims_of_metadata(metadata: Mapping[str, str]) -> list[Claim]:
    found = []
    for key in _METADATA_KEYS:
        value = metadata.get(key, "").strip().lower()
        if value in _UNKNOWN:
            continue
        if value not in _STATED:
            raise _unsupported(f"its metadata ({key})", value)
        found.append(Claim(_STATED[value], f"its metadata ({key})"))
    if metadata.get(_IS_VELOCITY, "").lower() in ("true", "false"):
        is_velocity = metadata[_IS_VELOCITY].lower() == "true"
        found.append(Claim("v_prediction" if is_velocity else "epsilon", f"its metadata ({_IS_VELOCITY})"))
    architecture = metadata.get("modelspec.architecture", "").lower()
    if architecture in _ARCHITECTURES:
        found.append(Claim(_ARCHITECTURES[architecture], "its metadata (modelspec.architecture)"))
    return found


def _unsupported(place: str, value: str) -> UserError:
    return UserError(
        f'{place} gives its training target as "{value}". Only noise prediction (epsilon) and v-prediction can be '
        "trained: use another checkpoint, or select the prediction type if that is wrong"
    )


def contradictions(used: Claim, others: Iterable[Claim]) -> list[str]:
    """One line for each place that states another type than the one that is used."""
    title = TITLES[used.prediction]
    reason = "was selected and is used." if used.place == SELECTED else f"is used, from {used.place}."
    return [
        f"{_capitalized(other.place)} says {TITLES[other.prediction]}, but {title} {reason} If that is wrong, create "
        f"the model again with the prediction type {other.prediction}."
        for other in others
        if other.prediction != used.prediction
    ]


def _capitalized(text: str) -> str:
    """As at the start of a sentence; file names stay as they are."""
    return text[0].upper() + text[1:] if text.startswith(("its ", "the ")) else text


def is_named_velocity(file: Tensors) -> bool:
    """Whether the name or title suggests v-prediction."""
    return any(_NAMED_VELOCITY.search(text) for text in (file.path.stem, file.metadata.get("modelspec.title", "")))


def has_zero_terminal_snr(file: Tensors) -> bool:
    """Whether the noise schedule in the file ends without signal, or a tensor marks it so."""
    if ZERO_SNR in file:
        return True
    key = "alphas_cumprod"
    if key not in file or len(file.shape(key)) != 1 or not 0 < file.shape(key)[0] <= 10_000:
        return False
    values = file.get(key)
    is_schedule = values.is_floating_point() and values[0].item() > 0.5 and bool(torch.isfinite(values).all())
    return is_schedule and 0 <= values[-1].item() < 1e-6


def with_prediction(metadata: Mapping[str, str], prediction: str) -> dict[str, str]:
    """The metadata with this type in our own config, if it states one: what is written must say what was trained."""
    try:
        config = json.loads(metadata.get(CONFIG_KEY, ""))
    except ValueError:
        return dict(metadata)
    if not isinstance(config, dict) or config.get("prediction_type", prediction) == prediction:
        return dict(metadata)
    return {**metadata, CONFIG_KEY: json.dumps({**config, "prediction_type": prediction})}
