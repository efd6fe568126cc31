"""Options of creating a model from a checkpoint, declared like all settings."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared, setting
from dreambooth.types import DTYPE_NAMES

AUTO = "auto"
FAMILIES = {  # model type: its name for people; others are added by models.registry.register
    "v1x": "Stable Diffusion 1.x",
    "v2x-512": "Stable Diffusion 2.x (512 px)",
    "v2x": "Stable Diffusion 2.x (768 px)",
    "SDXL": "Stable Diffusion XL",
    "zimage": "Z-Image",
    "anima": "Anima",
    "flux2_klein_4b": "FLUX.2 klein 4B",
    "flux2_klein_9b": "FLUX.2 klein 9B",
    "flux1": "FLUX.1",
    "chroma": "Chroma",
}
MODEL_TYPES = [AUTO, *FAMILIES]
PREDICTIONS = (AUTO, "epsilon", "v_prediction")
AS_IS = "as in the file"
PRECISIONS = (AS_IS, *DTYPE_NAMES)


TEXT_ENCODER_OPTIONS = ("text_encoder", "text_encoder_2")  # each a file; which text encoder it is, is recognized


@dataclass(frozen=True, kw_only=True)
class CreateOptions:
    """Options of Create. Inpainting and sizes are always detected."""

    # fmt: off
    model_type: str = setting(AUTO, "Create", "Model type",
        "auto detects it. v2x-512 and v2x (768 px) have the same tensors: select one if the file has no metadata.",
        choices=MODEL_TYPES)
    prediction_type: str = setting(AUTO, "Create", "Prediction type",
        "auto detects it, or uses the default of the model type. Select v_prediction for v-prediction models that are "
        "not marked as such.", choices=PREDICTIONS)
    vae: str = setting("", "Create", "VAE",
        "File or folder of a VAE that replaces the checkpoint's own. Empty uses the checkpoint's.", file_list="vaes",
        path=True)
    text_encoder: str = setting("", "Create", "Text encoder",
        "File or folder of a text encoder, for a source without one or in place of its own. Which text encoder it is, "
        "is recognized.", file_list="text_encoders", path=True)
    text_encoder_2: str = setting("", "Create", "Second text encoder",
        "The same for families with two text encoders, such as Stable Diffusion XL.", file_list="text_encoders",
        path=True)
    precision: str = setting(AS_IS, "Create", "Precision",
        "Precision of the working copy. fp16 and bf16 take half the disk space of fp32 and are slightly less exact.",
        choices=PRECISIONS)
    copy_source: bool = setting(False, "Create", "Copy the source",
        "Copy all weights into the model's folder. Otherwise, large files of families other than Stable Diffusion are "
        "read where they are and must stay there, unless you choose a precision.")
    extract_ema: bool = setting(False, "Create", "Extract EMA weights",
        "Also extract the checkpoint's EMA weights, if it has any, for samples and checkpoints. Training starts "
        "its own EMA from the regular weights.")
    token: str = setting("", "Create", "Hugging Face token",
        "For gated or private models of the hub. It is used once and never saved; empty uses your login.",
        secret=True)
    # fmt: on


CREATE_OPTIONS = declared(CreateOptions)


def add_model_type(model_type: str, title: str) -> None:
    """Offer a further family to Create."""
    FAMILIES[model_type] = title
    if model_type not in MODEL_TYPES:
        MODEL_TYPES.append(model_type)
