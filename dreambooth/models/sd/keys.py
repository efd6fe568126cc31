"""Tensor keys of Stable Diffusion's single files, and what they tell."""

from __future__ import annotations

from dreambooth.models.layout import Shapes

CONFIG_KEY = "dreambooth.config"

PREDICTION_TYPES = ("epsilon", "v_prediction")

UNET = "model.diffusion_model."
VAE = "first_stage_model."
EMA = "model_ema."

V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"  # names of empty tensors that mark a checkpoint
ZERO_SNR_SCHEDULE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}

LATENT_CHANNELS = 4
INPAINTING_CHANNELS = 9  # noisy latents (4), the mask (1), latents of the masked image (4)


def conv_in_channels(shapes: Shapes) -> int:
    """Input channels of the unet: 4, or 9 for inpainting; 0 without a unet."""
    shape = shapes.get(UNET + "input_blocks.0.0.weight", ())
    return shape[1] if len(shape) > 1 else 0


def has_label_embedding(shapes: Shapes) -> bool:
    """Whether the unet takes a vector conditioning besides the text, as in SDXL and unCLIP."""
    return any(key.startswith(UNET + "label_emb.") for key in shapes)


def is_pruned(shapes: Shapes) -> bool:
    """Whether the UNet is one of SDXL without its middle transformer, as SSD-1B, Segmind Vega and KOALA have it."""
    return UNET + "label_emb.0.0.weight" in shapes and UNET + "middle_block.1.proj_in.weight" not in shapes
