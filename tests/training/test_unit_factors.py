"""Divisions by 1 take no launch and change nothing."""

from __future__ import annotations

import torch

from dreambooth.checkpoints.modules import load_modules
from dreambooth.training.unit_factors import skip_unit_factors
from tests.training.launches import Recorded


def test_only_divisions_by_one_are_skipped(mini):
    unet = load_modules(mini.working, vae=False, text_encoder=False).denoiser
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 77, unet.config.cross_attention_dim)
    unet.mid_block.resnets[0].output_scale_factor = 2.0
    with torch.no_grad(), Recorded() as before:
        expected = unet(*inputs).sample
    n_factors = sum(hasattr(part, "output_scale_factor") for part in unet.modules())
    skip_unit_factors(unet)
    with torch.no_grad(), Recorded() as after:
        output = unet(*inputs).sample
    assert torch.equal(output, expected)
    assert before.launches - after.launches >= n_factors - 1 > 5
    assert unet.mid_block.resnets[0].output_scale_factor == 2.0
