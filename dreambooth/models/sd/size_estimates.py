"""Rules of thumb for activations and adapters of UNets and CLIP."""

from __future__ import annotations

from dreambooth.models.size_estimate import SizeEstimate

_SDXL = 1.5e9  # its UNet has more parameters, those before it fewer


def size_estimate(n_unet: int) -> SizeEstimate:
    """Activations: published figures of SD1.5's UNet of 860 M parameters with fused attention, at 512 px.

    Per rank, SD1.5's UNet has one adapter parameter for each 2000 of its own and, with convolutions, one for each 1580;
    SDXL's, mostly transformer blocks, one for each 960 and each 7200; CLIP one for each 740.
    """
    per_rank, per_conv_rank = (2000, 1580) if n_unet < _SDXL else (960, 7200)
    return SizeEstimate(1.24e9, 0.24e9, 860e6, per_rank, per_conv_rank, per_text_rank=740)
