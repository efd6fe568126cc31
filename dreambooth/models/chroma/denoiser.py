"""Chroma's transformer behind the interface of all denoisers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from dreambooth.models.conditioning import Conditioning
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.flux.tokens import TOKENS, image_positions, text_positions, time_of

STATES = "states"  # hidden states of T5, (B, L, D)
_ARGUMENTS = 4  # of a single block, with its mask


class ChromaDenoiser(Denoiser):
    """A diffusers ChromaTransformer2DModel.

    Its time is sigma, and its output the velocity noise - x_0. It takes latents packed into tokens. Where the prompts
    of a batch differ in length, their padding is masked.
    """

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        latents, states = noisy_latents.to(self.dtype), conditioning[STATES].to(self.dtype)
        longest = max(conditioning.lengths)
        mask = None if min(conditioning.lengths) == longest else conditioning.mask
        states, mask = states[:, :longest], None if mask is None else mask[:, :longest]
        tokens = TOKENS.pack(latents)
        if mask is not None:
            mask = F.pad(mask, (0, tokens.shape[1]), value=True)
        with _masked_single_blocks(self.module, mask):
            output = self.module(
                hidden_states=tokens,
                encoder_hidden_states=states,
                timestep=time_of(t, latents),
                img_ids=image_positions(latents),
                txt_ids=text_positions(states),
                attention_mask=mask,
                return_dict=False,
            )[0]
        return TOKENS.unpack(output, *latents.shape[-2:]).float()


@contextlib.contextmanager
def _masked_single_blocks(module: Any, mask: torch.Tensor | None) -> Iterator[None]:
    """In the block, gradient checkpointing gives single blocks their mask, which diffusers leaves out."""
    checkpoint = getattr(module, "_gradient_checkpointing_func", None)
    if mask is None or checkpoint is None:
        yield
        return

    single = set(module.single_transformer_blocks)

    def masked(block: Any, *args: Any) -> Any:
        is_without = block in single and len(args) < _ARGUMENTS
        return checkpoint(block, *args, *([mask] if is_without else []))

    module._gradient_checkpointing_func = masked
    try:
        yield
    finally:
        module._gradient_checkpointing_func = checkpoint
