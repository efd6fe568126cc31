"""The optimizer step fused into the backward pass gives the weights of an ordinary step, with hardly any gradients."""

from __future__ import annotations

import dataclasses
import math
import shutil

import pytest
import torch

from dreambooth import actions
from dreambooth.errors import UserError
from dreambooth.memory.forecast import GRADIENT_BATCH, ModelSize, forecast_memory
from dreambooth.models.sd.size_estimates import size_estimate
from dreambooth.runs.consistency import fused_backward_problems
from dreambooth.runs.preflight import preflight
from dreambooth.settings import Settings
from dreambooth.settings.training import GLOBAL_OPTIMIZERS, OPTIMIZERS
from dreambooth.training import optimizers, step
from dreambooth.training.fused_backward import FusedBackwardStepper
from dreambooth.training.optimizer_kinds import OPTIMIZER_KINDS, build_optimizer
from dreambooth.training.optimizers import make_stepper, parameter_groups
from tests.training.conftest import SMALL
from tests.training.test_optimizer_kinds import made_here

FULL = {"use_lora": False, "save_ckpt_after": False, "max_grad_norm": 0.0, "seed": 5}
FUSED = {**FULL, "fused_backward": True}
FUSING = [name for name in OPTIMIZERS if name not in GLOBAL_OPTIMIZERS]


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 5000 elements: several in a step of the small model, and most of several parameters."""
    monkeypatch.setattr("dreambooth.training.fused_backward.GRADIENT_BATCH", 5000)


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("name", FUSING)
def test_every_optimizer_takes_the_same_steps(name, clips):
    """Two groups; that of the text encoder is frozen after the second step."""
    if not made_here(name):
        pytest.skip(f"{OPTIMIZER_KINDS[name].library} is not installed")

    def weights(fused):
        torch.manual_seed(1)
        text, denoiser = torch.nn.Linear(40, 64), torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 3))
        settings = Settings(
            optimizer=name, fused_backward=fused, max_grad_norm=0.01 if clips else 0.0, clip_each_tensor=clips,
            learning_rate=1e-2, txt_learning_rate=1e-3,
        )  # fmt: skip
        groups = parameter_groups(settings, list(denoiser.parameters()), list(text.parameters()))
        stepper = make_stepper(build_optimizer(name, groups), settings, None)
        assert isinstance(stepper, FusedBackwardStepper) == fused
        if isinstance(stepper, FusedBackwardStepper):
            stepper.batch = 200
        norms = []
        for number in range(4):
            if number == 2:
                text.requires_grad_(False)
            inputs = torch.randn(5, 40, generator=torch.Generator().manual_seed(number))
            denoiser(text(inputs).tanh()).square().mean().backward()
            norms.append(stepper.step().item())
            assert all(p.grad is None for p in (*text.parameters(), *denoiser.parameters()))
        return norms, [p.detach() for p in (*text.parameters(), *denoiser.parameters())]

    (norms, expected), (fused_norms, ours) = weights(False), weights(True)
    assert all(torch.equal(a, b) for a, b in zip(expected, ours, strict=True))
    assert fused_norms == pytest.approx(norms)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_gives_the_same_losses_and_weights(train, mini, models_dir, created, small_batches, checkpointing):
    """Full training in fp32 of UNet and, for half of the run, text encoder, with class images and EMA."""
    settings = {**FULL, "use_ema": True, "stop_text_encoder": 0.5, "gradient_checkpointing": checkpointing,
                "lr_scheduler": "cosine", "save_state_after": True, "gradient_set_to_none": True}  # fmt: skip
    outcomes = []
    for fused in (False, True):
        outcome = train(**settings, fused_backward=fused)
        assert outcome.error is None
        outcomes.append((outcome.losses, outcome.digest(), _ema(mini)))
        shutil.rmtree(models_dir)
        shutil.copytree(created, models_dir)
    assert outcomes[0] == outcomes[1]


def _ema(model):
    from tests.training.conftest import tensors

    ema = tensors(next((model.working / "ema_unet").glob("*.safetensors")))
    return {key: value.double().sum().item() for key, value in ema.items()}


@pytest.mark.parametrize("more", [{}, {"mixed_precision": "bf16", "full_mixed_precision": True}])
def test_stopped_and_resumed_it_is_the_undisturbed_run(train, models_dir, created, small_batches, more):
    settings = {**FUSED, **more, "stop_text_encoder": 0.5, "num_train_epochs": 3}
    alone = train(**settings).digest()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)

    def disturb(event, controls):
        if event["kind"] == "step" and event["step"] == 3:
            controls.sample_now()
            controls.cancel()

    stopped = train(on=disturb, **settings)
    assert "failed" not in stopped.messages
    resumed = train(resume="latest", **settings)
    assert "differs from the original" not in resumed.messages
    assert resumed.digest() == alone


def test_only_the_gradients_of_one_batch_are_alive(train, monkeypatch):
    """Counted in elements, when each gradient arrives."""
    alive, sizes = [], []

    class Counting(FusedBackwardStepper):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.batch = 1
            sizes.extend(p.numel() for p in self._all())

        def _all(self):
            return [p for group in self.optimizer.param_groups for p in group["params"]]

        def collect(self, number, parameter):
            alive.append(sum(p.grad.numel() for p in self._all() if p.grad is not None))
            super().collect(number, parameter)

    monkeypatch.setattr(optimizers, "FusedBackwardStepper", Counting)
    assert train(**FUSED, max_train_steps=1).error is None
    assert len(alive) == len(sizes) and max(alive) == max(sizes) < sum(sizes)


def test_weights_of_a_gradient_that_is_not_finite_are_not_updated(train, mini, monkeypatch):
    made = []

    class Damaging(FusedBackwardStepper):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.batch = 1
            made.append((self, {}))

        def collect(self, number, parameter):
            made[0][1].setdefault(parameter, parameter.detach().clone())
            if number == 1:
                parameter.grad = torch.full_like(parameter, math.nan)
            super().collect(number, parameter)

        def step(self):
            norm = super().step()
            unchanged = [torch.equal(p, before) for p, before in made[0][1].items()]
            assert all(p.isfinite().all() for p in made[0][1]) and any(unchanged) and not all(unchanged)
            return norm

    monkeypatch.setattr(optimizers, "FusedBackwardStepper", Damaging)
    outcome = train(**FUSED)
    assert "The loss became NaN in step 1" in str(outcome.error) and not outcome.losses


def test_what_needs_all_gradients_at_once_is_refused(mini, concept):
    allowed = {**SMALL, **FUSED}

    def problems(**settings):
        try:
            preflight(mini, actions.configure(mini, {**allowed, **settings}, [concept]))
        except UserError as error:
            return error.problems
        return []

    assert problems() == [] and problems(max_grad_norm=1.0, clip_each_tensor=True) == []
    assert problems(tenc_grad_clip_norm=1.0, stop_text_encoder=0.0) == []
    for settings, expected in (
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: .* Set it to 1"),
        ({"max_grad_norm": 1.0}, "max_grad_norm: .* Switch clip_each_tensor on"),
        ({"tenc_grad_clip_norm": 1.0}, "tenc_grad_clip_norm: .* set the norm to 0"),
        ({"optimizer": "Prodigy"}, "optimizer: Prodigy .* Choose Torch AdamW"),
    ):
        with pytest.raises(UserError, match=expected):
            raise UserError.from_problems(problems(**settings))
        assert problems(**settings, use_lora=True) == []
    settings = Settings(use_lora=False, fused_backward=True, max_grad_norm=0)
    assert fused_backward_problems(settings, "bf16", 1) == []
    assert "fp16" in fused_backward_problems(settings, "fp16", 1)[0]
    assert "one GPU" in fused_backward_problems(settings, "bf16", 2)[0]


@pytest.mark.parametrize("in_backward", [False, True])
def test_out_of_memory_is_tried_again_unless_weights_have_changed(train, monkeypatch, small_batches, in_backward):
    """Without batches that can be split, the second time ends the run, with its progress in a snapshot."""
    real, failed = step.diffusion_losses, []

    def scarce(*arguments, **more):
        if not in_backward and len(failed) == 0:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, **more)

    class Scarce(FusedBackwardStepper):
        def collect(self, number, parameter):
            super().collect(number, parameter)
            if in_backward and self._norms and self.optimizer.param_groups[0]["lr"] and not failed:
                failed.append(1)
                raise torch.OutOfMemoryError("CUDA out of memory")

    expected = train(**FUSED, max_train_steps=2).losses
    monkeypatch.setattr(step, "diffusion_losses", scarce)
    monkeypatch.setattr(optimizers, "FusedBackwardStepper", Scarce)
    outcome = train(**FUSED, max_train_steps=2)
    assert failed
    if in_backward:
        assert "out of memory" in str(outcome.error).lower() and outcome.losses == []
    else:
        assert outcome.error is None and len(outcome.losses) == len(expected) == 2


def test_casts_are_not_cached_with_checkpointing(train, monkeypatch):
    real, cached = step.diffusion_losses, []

    def watched(*arguments, **more):
        cached.append(torch.is_autocast_cache_enabled())
        return real(*arguments, **more)

    monkeypatch.setattr(step, "diffusion_losses", watched)
    for more in ({}, {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "fused_backward": False}):
        assert train(**{**FUSED, "mixed_precision": "bf16", "max_train_steps": 1, **more}).error is None
    assert cached == [True, False, True]


def test_the_forecast_has_no_gradients():
    size = ModelSize(860_000_000, 123_000_000, size_estimate(860_000_000))
    plain = Settings(use_lora=False, stop_text_encoder=0, max_grad_norm=0)
    fused = dataclasses.replace(plain, fused_backward=True)
    saved = forecast_memory(plain, "bf16", size, False) - forecast_memory(fused, "bf16", size, False)
    assert saved == pytest.approx(860e6 * 4 - GRADIENT_BATCH * 4, rel=0.07), "activations are the peak then"
    lora = dataclasses.replace(fused, use_lora=True)
    assert forecast_memory(lora, "bf16", size, False) == forecast_memory(
        dataclasses.replace(plain, use_lora=True), "bf16", size, False
    )
