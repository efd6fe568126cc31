"""What can be chosen when a model is created from a checkpoint, declared once as all settings are."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared, setting

AUTO = "auto"
FAMILIES = {  # in words
    "v1x": "Stable Diffusion 1.x",
    "v2x-512": "Stable Diffusion 2.x (512 px)",
    "v2x": "Stable Diffusion 2.x (768 px)",
    "SDXL": "Stable Diffusion XL",
}
MODEL_TYPES = (AUTO, *FAMILIES)
PREDICTIONS = (AUTO, "epsilon", "v_prediction")
AS_IS = "as in the file"
PRECISIONS = {AS_IS: "", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True, kw_only=True)
class Creation:
    """Options of Create. What the file itself tells (inpainting, sizes) is not asked."""

    # fmt: off
    model_type: str = setting(AUTO, "Create", "Model type",
        "auto reads it off the file. v2x-512 and v2x (768 px) have the same tensors: choose, where the file says "
        "nothing of itself.", choices=MODEL_TYPES)
    prediction_type: str = setting(AUTO, "Create", "Prediction type",
        "auto: what the file says of itself, else its family's own. v_prediction for models of that kind that "
        "carry no mark.", choices=PREDICTIONS)
    vae: str = setting("", "Create", "VAE",
        "A file or folder whose VAE takes the place of the checkpoint's own; empty: its own.", listed="vaes")
    precision: str = setting(AS_IS, "Create", "Precision",
        "In which the working copy is kept. fp16 and bf16 take half the disk space of fp32, a little less exact.",
        choices=tuple(PRECISIONS))
    extract_ema: bool = setting(False, "Create", "Extract EMA weights",
        "Extract the checkpoint's averaged weights too, where it carries them: Use EMA goes on from them.")
    token: str = setting("", "Create", "Hugging Face token",
        "For gated or private models of the hub. It is used once and kept nowhere; empty: the one you logged in with.",
        secret=True)
    # fmt: on


CREATION = declared(Creation)
