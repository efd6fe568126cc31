"""Gradient checkpointing gives the gradients of a plain backward pass, each of them at once, and draws no numbers."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import pytest
import torch
from torch import nn

from dreambooth.checkpoints.modules import Modules, load_modules
from dreambooth.models.conditioning import ImageSize
from dreambooth.settings import Folders
from dreambooth.training import gradient_checkpointing
from dreambooth.training.adapters import AdapterConfig, inject
from dreambooth.training.dropout import AdapterDropout
from dreambooth.training.gradient_checkpointing import checkpoint_gradients, reentrant_checkpoint
from tests import mini_models

ADAPTERS = {
    "full": None,
    "LoRA, dropout": AdapterConfig("LoRA", 4, 2.0, conv_rank=2, dropout=0.3),
    "LoHa": AdapterConfig("LoHa", 3, 1.0),
    "DoRA": AdapterConfig("LoRA", 4, 2.0, dora=True),
}


@pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("model_type", ["v1x", "SDXL"])
def test_gradients_in_float64_are_those_of_a_plain_backward_pass(tmp_path, model_type, config):
    working = mini_models.create(Folders(tmp_path), "m", model_type).working

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        modules = load_modules(working, vae=False, dtype=torch.float64)
        layers = _make_trainable(modules, config, checkpointing)
        times = Counter[str]()
        for name, parameter in _parameters(modules).items():
            with torch.no_grad():  # no factor of an adapter is zero
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: times.update([name]))
        assert bool(layers) == bool(config)
        _loss(modules).backward()
        assert set(times.values()) == {1}, "a fused backward pass drops a gradient as soon as it is there"
        return {name: p.grad for name, p in _parameters(modules).items() if p.grad is not None}

    state = torch.get_rng_state()
    plain = gradients(False)
    with mock.patch.object(
        gradient_checkpointing._Checkpoint, "apply", wraps=gradient_checkpointing._Checkpoint.apply
    ) as apply:
        ours = gradients(True)
    assert apply.call_count > 10, "in both components"
    assert torch.equal(torch.get_rng_state(), state)
    assert ours.keys() == plain.keys() and len(plain) > 50
    largest = max(gradient.norm() for gradient in plain.values())
    rounding = 1e-12 if config is None or (config.kind, config.dora) == ("LoRA", False) else 1e-5  # others: in float32
    for name, expected in plain.items():
        assert (ours[name] - expected).norm() <= rounding * max(expected.norm(), 1e-3 * largest), name


def _make_trainable(modules: Modules, config: AdapterConfig | None, checkpointing: bool) -> dict:
    layers, dropout = {}, AdapterDropout(seed=3)
    for name, module in modules.parts.items():
        module.requires_grad_(config is None).train()
        if checkpointing:
            checkpoint_gradients(module)
        if config:
            layers |= inject(modules, name, config, 1, dropout)
            module.double()
    return layers


def _parameters(modules: Modules) -> dict[str, nn.Parameter]:
    return {
        f"{part}.{name}": parameter
        for part, module in modules.parts.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _loss(modules: Modules) -> torch.Tensor:
    conditioner = modules.text_conditioner(modules.family.prompt_encoding())
    tokens = conditioner.tokenize(["a zwx toy", "a toy"])
    denoiser = modules.family.make_denoiser(modules.denoiser)
    size = ImageSize((64, 64), (0, 0), (64, 64))
    conditioning = denoiser.prepare(conditioner.encode(tokens), [size] * 2)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return denoiser.predict(noise, torch.tensor([3, 700]), conditioning).double().square().mean()


def test_dropout_of_a_model_and_shared_weights_keep_the_checkpointing_of_the_library(mini):
    for change in (_add_dropout, _share_weights):
        modules = load_modules(mini.working, vae=False, text_encoder=False)
        change(modules.denoiser)
        checkpoint_gradients(modules.denoiser)
        functions = {vars(part).get("_gradient_checkpointing_func") for part in modules.denoiser.modules()}
        assert functions and reentrant_checkpoint not in functions, change


def _add_dropout(unet) -> None:
    unet.mid_block.resnets[0].dropout.p = 0.1


def _share_weights(unet) -> None:
    unet.mid_block.resnets[1].conv1.weight = unet.mid_block.resnets[0].conv1.weight


def test_tensors_in_other_arguments_get_their_gradients():
    x, y = torch.ones(2, requires_grad=True), torch.full((2,), 3.0, requires_grad=True)

    def product(first, others):
        return first * others["second"][0], None

    product_of_x, nothing = reentrant_checkpoint(product, x, {"second": [y * 2]})
    product_of_x.sum().backward()
    assert nothing is None
    assert x.grad is not None and x.grad.tolist() == [6, 6]
    assert y.grad is not None and y.grad.tolist() == [2, 2]
