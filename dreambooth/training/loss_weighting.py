"""How much a timestep counts. All weights are of the error in what the unet answers, (B,) from (B,).

Of the same error in the picture that the answer stands for, noise shows SNR times as much and velocity SNR + 1 times
(arXiv:2202.00512, appendix D): that is the difference between the formulas for the two.
"""

from __future__ import annotations

import torch

LEAST_SNR = 1e-3  # below Stable Diffusion's own last step (0.0047); at zero terminal SNR a weight stays finite


def min_snr(snr: torch.Tensor, gamma: float, prediction_type: str) -> torch.Tensor:
    """Min-SNR (arXiv:2303.09556, eq. 7 and 8): the picture's error counts min(SNR, gamma)."""
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1.0)


def debiased(snr: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Debiased estimation (arXiv:2310.08442, eq. 11): the picture's error counts the root of the SNR."""
    snr = snr.clamp(min=LEAST_SNR)
    return snr.sqrt() / (snr + 1) if prediction_type == "v_prediction" else 1 / snr.sqrt()
