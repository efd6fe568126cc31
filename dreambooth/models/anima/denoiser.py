"""Anima's transformer behind the interface of all denoisers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dreambooth.models.conditioning import Conditioning
from dreambooth.models.denoiser import Denoiser

STATES = "states"  # text embeddings of the adapter, (B, L, D)
_N_TOKENS = 512  # of a prompt: shorter ones are padded with zeros, which the transformer attends to


class AnimaDenoiser(Denoiser):
    """A diffusers CosmosTransformer3DModel whose padding mask is a channel of its input (see :func:`make_transformer`).

    Its time is sigma, and its output the velocity noise - x_0. An image is one frame.
    """

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dtype, states = self.dtype, conditioning[STATES]
        frames = noisy_latents.to(dtype).unsqueeze(2)
        unmasked = F.pad(frames, (0, 0, 0, 0, 0, 0, 0, 1))  # a channel of zeros: there is no padding in the image
        time = (t / 1000).to(frames.device).expand(len(frames))
        prompts = F.pad(states.to(dtype), (0, 0, 0, max(0, _N_TOKENS - states.shape[1])))
        return self.module(unmasked, time, prompts, return_dict=False)[0].squeeze(2).float()
