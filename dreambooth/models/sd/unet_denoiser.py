"""Stable Diffusion's UNet: text by cross-attention; SDXL's also takes a pooled embedding and image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreambooth.models.conditioning import Conditioning, ImageSize
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.sd.clip_conditioner import POOLED, STATES
from dreambooth.models.transfer import to_device

TIME_IDS = "time_ids"


class UNetDenoiser(Denoiser):
    """A diffusers UNet2DConditionModel. Its output is noise or velocity, as the model was trained."""

    def prepare(self, conditioning: Conditioning, sizes: Sequence[ImageSize]) -> Conditioning:
        """Sizes stay float32, since half precision rounds them."""
        prepared = super().prepare(conditioning, sizes)
        if POOLED not in conditioning:
            return prepared
        return prepared.replace(**{TIME_IDS: to_device(time_ids(sizes), conditioning.device)})

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``extra_channels`` (B, 5, h, w): mask and latents of the masked image, for inpainting models."""
        dtype = self.dtype
        inputs = noisy_latents if extra_channels is None else torch.cat([noisy_latents, extra_channels], dim=1)
        kwargs: dict[str, Any] = {"encoder_hidden_states": conditioning[STATES].to(dtype), "return_dict": False}
        if POOLED in conditioning:
            text_embeds = conditioning[POOLED].to(dtype)
            kwargs["added_cond_kwargs"] = {"text_embeds": text_embeds, TIME_IDS: conditioning[TIME_IDS]}
        return self.module(inputs.to(dtype), t, **kwargs)[0].float()


def time_ids(sizes: Sequence[ImageSize]) -> torch.Tensor:
    """SDXL's size conditioning, (B, 6) float32: height and width of the original, top and left of the crop, height and
    width of the target (arXiv:2307.01952, 2.2).
    """
    rows = [(original[1], original[0], crop[1], crop[0], target[1], target[0]) for original, crop, target in sizes]
    return torch.tensor(rows, dtype=torch.float32)
