"""Rules of thumb for activations and adapters of UNets and CLIP."""

from __future__ import annotations

from dreambooth.models.size_estimate import SizeEstimate

_SDXL = 1.5e9  # its UNet has more parameters, those before it fewer


def size_estimate(n_unet: int) -> SizeEstimate:
    """Activations: of a LoRA with fused attention, traced at full size by tools/bench_memory.py.

    SD1.5's UNet of 860 M parameters at 512 px, SDXL's of 2567 M at 1024 px. Per rank, SD1.5's UNet has one adapter
    parameter for each 2000 of its own and, with convolutions, one for each 1580; SDXL's, mostly transformer blocks, one
    for each 960 and each 7200; CLIP one for each 740.
    """
    if n_unet < _SDXL:
        return SizeEstimate(0.95e9, 0.23e9, 860e6, per_rank=2000, per_conv_rank=1580, per_text_rank=740)
    return SizeEstimate(6.85e9 / 4, 0.61e9 / 4, 2567e6, per_rank=960, per_conv_rank=7200, per_text_rank=740)
