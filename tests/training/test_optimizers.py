"""Optimizer, gradient clipping and EMA: the same numbers as torch's own implementations."""

from __future__ import annotations

import copy

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.settings import Settings, parse
from dreambooth.training import fused_adamw, optimizer_kinds
from dreambooth.training.ema import EMA
from dreambooth.training.fused_adamw import FusedAdamW, has_fused_adamw
from dreambooth.training.optimizers import Stepper, make_optimizer, parameter_groups


def _parameters(seed=0, n=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(7, 3 + i, generator=generator)) for i in range(n)]


def _give_gradients(parameters, step, size=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)


needs_fused = pytest.mark.skipif(
    not has_fused_adamw("cpu"), reason="this torch has no fused AdamW on the CPU; nor do we then"
)


@needs_fused
def test_our_adamw_takes_torchs_steps():
    ours, theirs = _parameters(), _parameters()
    mine = FusedAdamW(ours, lr=1e-2, weight_decay=0.1)
    reference = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1, fused=True)
    for step in range(20):
        _give_gradients(ours, step)
        _give_gradients(theirs, step)
        mine.step()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@needs_fused
def test_torchs_adamw_goes_on_from_our_state():
    ours = _parameters()
    mine = FusedAdamW(ours, lr=1e-2)
    for step in range(5):
        _give_gradients(ours, step)
        mine.step()
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    reference = torch.optim.AdamW(theirs, lr=1e-2)
    reference.load_state_dict(copy.deepcopy(mine.state_dict()))
    _give_gradients(ours, 5)
    _give_gradients(theirs, 5)
    mine.step()
    reference.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("own_text_limit", [0.0, 0.5])
def test_clipping_is_torchs_clipping(own_text_limit):
    settings = parse(Settings, {"max_grad_norm": 1.5, "tenc_grad_clip_norm": own_text_limit, "learning_rate": 1e-2})
    unet, text = _parameters(1), _parameters(2)
    stepper = Stepper(make_optimizer(settings, parameter_groups(settings, unet, text)), settings)
    unet_too, text_too = _parameters(1), _parameters(2)
    reference = torch.optim.AdamW(parameter_groups(settings, unet_too, text_too), fused=has_fused_adamw("cpu"))
    for step in range(5):
        for parameters in (unet + text, unet_too + text_too):
            _give_gradients(parameters, step, size=10)
        expected = torch.cat([p.grad.flatten() for p in unet_too + text_too]).norm()
        torch.testing.assert_close(stepper.step(), expected)
        limits = [(unet_too, 1.5), (text_too, own_text_limit)] if own_text_limit else [(unet_too + text_too, 1.5)]
        for parameters, limit in limits:
            torch.nn.utils.clip_grad_norm_(parameters, limit)
        reference.step()
    for a, b in zip(unet + text, unet_too + text_too, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing():
    settings = Settings()
    parameters = _parameters()
    stepper = Stepper(make_optimizer(settings, parameter_groups(settings, parameters, [])), settings)
    _give_gradients(parameters, 0)
    stepper.step()
    before = [p.detach().clone() for p in parameters]
    _give_gradients(parameters, 1)
    parameters[2].grad[0, 0] = float("nan")
    assert not torch.isfinite(stepper.step())
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def test_gradients_are_dropped_or_zeroed_as_chosen():
    for to_none in (True, False):
        settings = parse(Settings, {"gradient_set_to_none": to_none})
        parameters = _parameters()
        stepper = Stepper(make_optimizer(settings, parameter_groups(settings, parameters, [])), settings)
        _give_gradients(parameters, 0)
        stepper.step()
        if to_none:
            assert all(p.grad is None for p in parameters)
        else:
            assert all((p.grad == 0).all() for p in parameters)


def test_groups_have_their_own_rates_and_decays():
    settings = parse(Settings, {"learning_rate": 3e-4, "txt_learning_rate": 1e-5, "tenc_weight_decay": 0.5})
    unet, text = parameter_groups(settings, _parameters(), _parameters())
    assert (unet["lr"], text["lr"], unet["weight_decay"], text["weight_decay"]) == (3e-4, 1e-5, 0.01, 0.5)


def test_an_optimizer_that_cannot_run_is_refused_never_replaced(monkeypatch):
    monkeypatch.setattr(optimizer_kinds, "_missing_requirement", lambda kind: "something")
    with pytest.raises(UserError, match="8bit AdamW can't be used"):
        make_optimizer(Settings(optimizer="8bit AdamW"), [{"params": _parameters(), "name": "unet", "base_lr": 1e-3}])


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_ema_warms_up_and_swaps_back_bit_for_bit(decay):
    parameters = _parameters()
    ema = EMA(parameters, decay)
    expected = [p.detach().clone() for p in parameters]
    for update in range(1, 30):
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1)
        ema.update()
        now = min(decay, (1 + update) / (10 + update))
        expected = [now * e + (1 - now) * p for e, p in zip(expected, parameters, strict=True)]
    torch.testing.assert_close(ema.shadow_params, [e.detach() for e in expected])
    live = [p.detach().clone() for p in parameters]
    shadow_params = [a.clone() for a in ema.shadow_params]
    ema.swap()
    assert all(torch.equal(p, a) for p, a in zip(parameters, shadow_params, strict=True))
    ema.swap()
    assert all(torch.equal(p, x) for p, x in zip(parameters, live, strict=True))


@pytest.mark.parametrize("use_lora", [True, False])
def test_gradient_checkpointing_changes_memory_not_weights(train, mini, models_dir, created, use_lora, monkeypatch):
    import shutil

    from diffusers.models.unets import unet_2d_condition

    turned_on = []
    real = unet_2d_condition.UNet2DConditionModel.enable_gradient_checkpointing
    monkeypatch.setattr(
        unet_2d_condition.UNet2DConditionModel,
        "enable_gradient_checkpointing",
        lambda self: (turned_on.append(True), real(self)),
    )
    outcomes = []
    for checkpointing in (False, True):
        outcome = train(use_lora=use_lora, save_ckpt_after=False, gradient_checkpointing=checkpointing)
        outcomes.append(([step["loss"] for step in outcome.of("step")], outcome.weights()))
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
    assert turned_on == [True]
    (losses, weights), (other_losses, others) = outcomes
    assert other_losses == pytest.approx(losses, abs=1e-5)  # gradients are summed in another order
    for name, weight in weights.items():
        assert (weight.float() - others[name].float()).norm() <= 1e-3 * weight.float().norm(), name


def test_fused_adamw_gives_the_kernel_gradients_with_the_strides_of_the_weights(monkeypatch):
    """As it insisted on before torch 2.2, also along axes of size 1."""
    kernel = torch._fused_adamw_

    def strict(params, grads, *moments, **options):
        assert all(grad.stride() == p.stride() for p, grad in zip(params, grads, strict=True))
        kernel(params, grads, *moments, **options)

    monkeypatch.setattr(torch, "_fused_adamw_", strict)
    monkeypatch.setattr(fused_adamw, "IS_STRICT_ABOUT_STRIDES", True)
    weights = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(3, 2, 1, 1))
        weight.grad = torch.linspace(0, 1, 6).reshape(3, 2, 1, 1).to(memory_format=memory_format)
        FusedAdamW([weight], lr=0.1).step()
        weights.append(weight.detach())
    assert torch.equal(*weights)
