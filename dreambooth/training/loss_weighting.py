"""Loss weights by timestep, (B,) from (B,). All of them weigh the error of the model output.

An error in the predicted latents x0 appears SNR times as large in the noise, and SNR + 1 times as large in the velocity
(arXiv:2202.00512, appendix D). This is the difference between the formulas for the two prediction types.
"""

from __future__ import annotations

import torch

MIN_SNR = 1e-3  # below the last timestep of Stable Diffusion (0.0047); keeps weights finite at zero terminal SNR


def min_snr_weight(snr: torch.Tensor, gamma: float, prediction_type: str) -> torch.Tensor:
    """Min-SNR (arXiv:2303.09556, eq. 7 and 8): the error of x0 is weighted with min(SNR, gamma)."""
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1.0)


def debiased_weight(snr: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Debiased estimation (arXiv:2310.08442, eq. 11): the error of x0 is weighted with sqrt(SNR)."""
    snr = snr.clamp(min=MIN_SNR)
    return snr.sqrt() / (snr + 1) if prediction_type == "v_prediction" else 1 / snr.sqrt()
