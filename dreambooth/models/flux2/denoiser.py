"""FLUX.2's transformer behind the interface of all denoisers."""

from __future__ import annotations

import torch

from dreambooth.models.conditioning import Conditioning
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.qwen.chat import STATES


class Flux2Denoiser(Denoiser):
    """A diffusers Flux2Transformer2DModel.

    Its time is sigma, and its output the velocity noise - x_0. Each pixel of the latents is a token. Positions have
    four axes: time, row, column, and place in the prompt; those of the image count from the upper left corner.
    """

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        states, (height, width) = conditioning[STATES].to(self.dtype), noisy_latents.shape[-2:]
        tokens = noisy_latents.to(self.dtype).flatten(2).transpose(1, 2)
        time = (t / 1000).to(tokens.device).expand(len(tokens))
        rows, columns, places = (torch.arange(n, device=tokens.device) for n in (height, width, states.shape[1]))
        zero = places[:1]
        output = self.module(
            tokens, encoder_hidden_states=states, timestep=time, guidance=None, return_dict=False,
            img_ids=torch.cartesian_prod(zero, rows, columns, zero),
            txt_ids=torch.cartesian_prod(zero, zero, zero, places),
        )[0]  # fmt: skip
        return output.transpose(1, 2).unflatten(2, (height, width)).float()
