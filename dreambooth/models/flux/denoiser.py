"""FLUX.1's transformer behind the interface of all denoisers."""

from __future__ import annotations

import torch

from dreambooth.models.conditioning import GUIDANCE, Conditioning
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.flux.tokens import TOKENS, image_positions, text_positions, time_of

STATES, POOLED = "states", "pooled"  # hidden states of T5, (B, L, D); CLIP's pooled embedding, (B, P)
_TRAINED_GUIDANCE = 1.0  # as sd-scripts (--guidance_scale 1.0), OneTrainer and ai-toolkit train


class FluxDenoiser(Denoiser):
    """A diffusers FluxTransformer2DModel.

    Its time is sigma, and its output the velocity noise - x_0. It takes latents packed into tokens, with their
    positions, and, if it has such an input, the guidance scale.
    """

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        latents, states = noisy_latents.to(self.dtype), conditioning[STATES].to(self.dtype)
        output = self.module(
            hidden_states=TOKENS.pack(latents),
            encoder_hidden_states=states,
            pooled_projections=conditioning[POOLED].to(self.dtype),
            timestep=time_of(t, latents),
            img_ids=image_positions(latents),
            txt_ids=text_positions(states),
            guidance=self._guidance(conditioning),
            return_dict=False,
        )[0]
        return TOKENS.unpack(output, *latents.shape[-2:]).float()

    def _guidance(self, conditioning: Conditioning) -> torch.Tensor | None:
        """(B,); None for a model that has no such input."""
        if not self.module.config.guidance_embeds:
            return None
        if GUIDANCE in conditioning:
            return conditioning[GUIDANCE]
        return torch.full((len(conditioning),), _TRAINED_GUIDANCE, device=conditioning.device)
