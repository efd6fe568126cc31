"""Attention whose processor is called directly: the same results, without inspecting its signature in each call."""

from __future__ import annotations

import inspect
from unittest import mock

import torch
from diffusers.models.attention_processor import Attention

from dreambooth.checkpoints.modules import load_modules
from dreambooth.training.attention import skip_signature_checks, use_attention


def test_signatures_are_not_inspected(mini) -> None:
    unet, other = (load_modules(mini.working, vae=False, text_encoder=False).denoiser for _ in range(2))
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 77, unet.config.cross_attention_dim)
    keys = list(unet.state_dict())
    with torch.no_grad(), mock.patch.object(inspect, "signature", wraps=inspect.signature) as signature:
        expected = unet(*inputs).sample
        assert signature.call_count > 5
        skip_signature_checks(unet)
        signature.reset_mock()
        assert torch.equal(unet(*inputs).sample, expected)
        assert signature.call_count == 0
        use_attention(unet, "sliced")
        torch.testing.assert_close(unet(*inputs).sample, expected)
        assert signature.call_count == 0
    assert list(unet.state_dict()) == keys
    assert any(type(part) is Attention for part in other.modules()), "the class itself is the host's too"


def test_other_arguments_are_passed_as_before(mini) -> None:
    unet = load_modules(mini.working, vae=False, text_encoder=False).denoiser
    attention = next(part for part in unet.modules() if type(part) is Attention)
    x = torch.randn(1, 6, attention.query_dim)
    expected = attention(x)
    skip_signature_checks(unet)
    assert torch.equal(attention(x, unknown=1), expected)
