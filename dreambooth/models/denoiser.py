"""The prediction of a denoiser: one path for training, validation, sampling and the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreambooth.models.conditioning import Conditioning, ImageSize


class Denoiser:
    """A family's denoising network behind one interface. Autocast and gradients are up to the caller.

    Subclasses own what differs: dtypes, the meaning of time, packing, guidance input, and the sign of the output.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; inputs are cast to it."""
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def prepare(self, conditioning: Conditioning, sizes: Sequence[ImageSize]) -> Conditioning:
        """The conditioning of encoded prompts, as :meth:`predict` takes it, for images of these sizes.

        It is cast to the dtype of the weights once, and may be used for several predictions.
        """
        return conditioning.to(dtype=self.dtype)

    def predict(
        self,
        noisy_latents: torch.Tensor,
        t: torch.Tensor,
        conditioning: Conditioning,
        extra_channels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The model output in the shape of ``noisy_latents`` (B, C, h, w), float32: what the process has as target.

        ``t`` (B,) or a scalar: timesteps of the process; ``conditioning``: of :meth:`prepare`; ``extra_channels``
        (B, E, h, w): what the denoiser takes besides (see :meth:`Family.extra_channels`).
        """
        raise NotImplementedError
