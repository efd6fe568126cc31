"""Rules of thumb for sizes that are not known before a model is loaded: activations and adapters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeEstimate:
    """Of a denoiser with ``reference_parameters``, for one image of 512 x 512 pixels in half precision; others are
    scaled by parameters and pixels. Adapters have one parameter per rank for each ``per_rank`` of the denoiser's own,
    ``per_conv_rank`` (of k x k convolutions) and ``per_text_rank`` of the text encoders'; 0: none.
    """

    activation_bytes: float = 1.24e9
    checkpointed_activation_bytes: float = 0.24e9
    reference_parameters: float = 860e6
    per_rank: int = 2000
    per_conv_rank: int = 0
    per_text_rank: int = 2000
