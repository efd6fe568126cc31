"""Z-Image's transformer behind the interface of all denoisers."""

from __future__ import annotations

import torch

from dreambooth.models.conditioning import Conditioning
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.qwen.chat import STATES


class ZImageDenoiser(Denoiser):
    """A diffusers ZImageTransformer2DModel.

    Its time runs from noise (0) to the image (1), and its output is the velocity x_0 - noise. It takes prompts as a
    list, without padding, and pads them itself to multiples of 32 tokens with a learned vector.
    """

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dtype, states = self.dtype, conditioning[STATES]
        images = list(noisy_latents.to(dtype).unsqueeze(2).unbind())  # of one frame
        time = ((1000 - t) / 1000).to(noisy_latents.device).expand(len(images))
        # Of lengths that are known without waiting for the device.
        prompts = [own[:length].to(dtype) for own, length in zip(states, conditioning.lengths, strict=True)]
        outputs = self.module(images, time, prompts)[0]
        return -torch.stack(list(outputs)).squeeze(2).float()
