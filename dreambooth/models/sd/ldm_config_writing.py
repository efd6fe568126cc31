"""The ``.yaml`` that is written beside a checkpoint, for WebUIs that take the model for another one without it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth.files import read_json
from dreambooth.models.sd.keys import INPAINTING_CHANNELS
from dreambooth.models.sd.ldm_config import ldm_config_path, parse_ldm_config


def config_to_write(working: Path, source: Path, model_type: str) -> bytes | None:
    """What is written beside a checkpoint of the model; None if WebUIs need nothing.

    The source's own configuration, as long as it says what was trained. A Stable Diffusion 1.x model that predicts
    velocity always gets one, since WebUIs take it for an epsilon model otherwise.
    """
    scheduler = read_json(working / "scheduler" / "scheduler_config.json")
    prediction, kept = scheduler.get("prediction_type", "epsilon"), ldm_config_path(source)
    if kept.is_file():
        text = kept.read_bytes()
        with contextlib.suppress(ValueError):  # it was damaged since
            config = parse_ldm_config(kept, text)
            if not config.unsupported and (config.prediction or "epsilon") == prediction:
                return text
    if model_type != "v1x" or prediction != "v_prediction":
        return None
    unet, vae = (read_json(working / part / "config.json") for part in ("unet", "vae"))
    return _config_text(unet, vae, scheduler).encode()


def _config_text(unet: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str:
    """The configuration of a Stable Diffusion 1.x model, from diffusers' configs of its parts."""
    channels, is_inpainting = unet["block_out_channels"], unet["in_channels"] == INPAINTING_CHANNELS
    kind = "LatentInpaintDiffusion" if is_inpainting else "LatentDiffusion"
    heads = unet["attention_head_dim"]
    params = {
        "parameterization": "v" if scheduler.get("prediction_type") == "v_prediction" else "eps",
        "linear_start": scheduler.get("beta_start", 0.00085),
        "linear_end": scheduler.get("beta_end", 0.012),
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": unet["sample_size"],
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "hybrid" if is_inpainting else "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": vae.get("scaling_factor", 0.18215),
        "use_ema": False,
        **({"finetune_keys": None} if is_inpainting else {}),
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "image_size": 32,
                "in_channels": unet["in_channels"],
                "out_channels": unet["out_channels"],
                "model_channels": channels[0],
                "attention_resolutions": [
                    2**level for level in reversed(range(len(channels))) if "Cross" in unet["down_block_types"][level]
                ],
                "num_res_blocks": unet["layers_per_block"],
                "channel_mult": [width // channels[0] for width in channels],
                "num_heads": heads if isinstance(heads, int) else heads[0],
                "use_spatial_transformer": True,
                "transformer_depth": 1,
                "context_dim": unet["cross_attention_dim"],
                "use_checkpoint": False,
                "legacy": False,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {
                "embed_dim": vae["latent_channels"],
                "monitor": "val/rec_loss",
                "ddconfig": {
                    "double_z": True,
                    "z_channels": vae["latent_channels"],
                    "resolution": 256,
                    "in_channels": vae["in_channels"],
                    "out_ch": vae["out_channels"],
                    "ch": vae["block_out_channels"][0],
                    "ch_mult": [width // vae["block_out_channels"][0] for width in vae["block_out_channels"]],
                    "num_res_blocks": vae["layers_per_block"],
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    }
    import yaml

    model = {"base_learning_rate": 1.0e-4, "target": f"ldm.models.diffusion.ddpm.{kind}", "params": params}
    return yaml.safe_dump({"model": model}, sort_keys=False)
