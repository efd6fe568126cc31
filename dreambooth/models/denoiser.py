"""The prediction of a denoiser: one path for training, validation, sampling and the benchmark."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from dreambooth.models.sd.text_encoding import PromptEmbedding


class Conditioning(NamedTuple):
    """What a prediction depends on besides latents and timestep.

    ``time_ids`` (B, 6) float32, read by SDXL alone: original height and width, crop top and left, target height and
    width, in pixels (arXiv:2307.01952, 2.2).
    """

    embedding: PromptEmbedding
    time_ids: torch.Tensor | None = None

    def to(self, dtype: torch.dtype) -> Conditioning:
        """Embeddings in ``dtype``; sizes stay float32, since half precision rounds them."""
        return self._replace(embedding=self.embedding.to(dtype))


class UNetDenoiser:
    """A diffusers UNet2DConditionModel behind the interface of all denoisers. Autocast is up to the caller."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; inputs are cast to it."""
        return next(self.unet.parameters()).dtype

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The model output, (B, 4, h, w) float32: noise or velocity, as the model was trained.

        ``noisy_latents`` (B, 4, h, w); ``t`` (B,) or a scalar, int64; ``extra_channels`` (B, 5, h, w): mask and latents
        of the masked image, for inpainting models.
        """
        dtype = self.dtype
        inputs = noisy_latents if extra_channels is None else torch.cat([noisy_latents, extra_channels], dim=1)
        states, pooled = conditioning.embedding.to(dtype)
        kwargs: dict[str, Any] = {"encoder_hidden_states": states, "return_dict": False}
        if pooled is not None:
            kwargs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": conditioning.time_ids}
        return self.unet(inputs.to(dtype), t, **kwargs)[0].float()
