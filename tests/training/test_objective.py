"""The training objective, compared with small references in float64 that share no code with it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dreambooth.dataset.plan import Batch, Example
from dreambooth.images.buckets import Crop
from dreambooth.models.conditioning import Conditioning
from dreambooth.models.process import DDPM
from dreambooth.models.sd.default_latents import DEFAULT_CODEC
from dreambooth.models.sd.unet_denoiser import UNetDenoiser
from dreambooth.settings import Settings
from dreambooth.training.loss_functions import huber_threshold
from dreambooth.training.loss_masks import LossMasks
from dreambooth.training.noise import generator_for, sample_noise, training_scheduler_config
from dreambooth.training.objective import diffusion_losses, per_image_losses, prior_weight_at

CROP = Crop(resized_w=64, resized_h=64, left=0, top=0, width=64, height=64)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS_CUMPROD = torch.cumprod(1 - BETAS, 0)
SNR = ALPHAS_CUMPROD / (1 - ALPHAS_CUMPROD)
T = torch.tensor([0, 10, 250, 600, 999])
KINDS = {"epsilon": {}, "v_prediction": {"prediction_type": "v_prediction"}}


def _example(number: int, is_class: bool = False, path: Path = Path("x.png"), mask: Path | None = None) -> Example:
    return Example(path, f"{number}", "x", 0, is_class, f"{number}{is_class}", (64, 64), CROP, mask)


def _random(seed: int, n: int = len(T)) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


class RecordingUnet(torch.nn.Module):
    """Predicts with a fixed function of its input, and records its inputs."""

    def __init__(self, output) -> None:
        super().__init__()
        self.of, self.output, self.inputs = torch.nn.Parameter(torch.ones(1)), output, []

    def forward(self, noisy, t, encoder_hidden_states, return_dict, added_cond_kwargs=None):
        self.inputs.append((noisy.detach().double(), t))
        return (self.of * self.output(noisy, t),)


def _step(settings, kind="epsilon", n=3, classes=0, output=lambda x, t: 0.5 * x, step=0, weight=0.75, **more):
    """(losses, unet, latents) of one batch through the training code."""
    latents = _random(1, n + classes)
    examples = tuple(_example(i) for i in range(n)), tuple(_example(i, True) for i in range(classes))
    prompts = SimpleNamespace(batch=lambda captions: Conditioning({"states": torch.zeros(len(captions), 77, 8)}))
    unet = RecordingUnet(output)
    losses = diffusion_losses(
        UNetDenoiser(unet), DDPM(KINDS[kind]), SimpleNamespace(batch=lambda examples, generator: latents),
        prompts, None, Batch(*examples), generator_for(7, step), settings, prior_weight=weight, **more,
    )  # fmt: skip
    return losses, unet, latents.double()


def _sampled(n, step=0):
    """Timesteps and noise as a step with default settings samples them."""
    generator = generator_for(7, step)
    t = torch.randint(1000, (n,), generator=generator)
    return t, torch.randn(n, 4, 8, 8, generator=generator).double(), generator


def _mix(latents, noise, t):
    return (
        ALPHAS_CUMPROD[t].sqrt()[:, None, None, None] * latents
        + (1 - ALPHAS_CUMPROD[t]).sqrt()[:, None, None, None] * noise
    )


# -- weights of timesteps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma):
    least = torch.minimum(SNR[T], torch.full((), gamma, dtype=torch.float64))
    _weights_are({"min_snr_gamma": gamma}, {"epsilon": least / SNR[T], "v_prediction": least / (SNR[T] + 1)})


def test_debiased_estimation():
    _weights_are(
        {"debiased_estimation": True},
        {"epsilon": SNR[T] ** -0.5, "v_prediction": SNR[T] ** 0.5 / (SNR[T] + 1)},
    )


def _weights_are(chosen, expected):
    predicted, target = _random(2), _random(3)
    plain = (predicted.double() - target.double()).square().mean(dim=(1, 2, 3))
    for kind, weights in expected.items():
        ours = per_image_losses(predicted, target, T, DDPM(KINDS[kind]), Settings(**chosen))
        torch.testing.assert_close(ours.double(), weights * plain, rtol=2e-4, atol=1e-7)


def test_weights_stay_finite_at_zero_terminal_snr():
    for kind, config in KINDS.items():
        schedule = DDPM(training_scheduler_config(config, True))
        for chosen in ({"min_snr_gamma": 5.0}, {"debiased_estimation": True}, {"loss_type": "huber"}):
            assert torch.isfinite(per_image_losses(_random(2), _random(3), T, schedule, Settings(**chosen))).all(), kind


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
@pytest.mark.parametrize("kind", ["l2", "l1", "huber", "smooth_l1"])
def test_distances(kind, schedule):
    least = 0.1
    sigma = SNR[T] ** -0.5
    c = {
        "snr": (1 - least) / (1 + sigma) ** 2 + least,
        "exponential": torch.exp(-(-math.log(least) / 1000) * T.double()),
        "constant": torch.full((len(T),), least, dtype=torch.float64),
    }[schedule][:, None, None, None]
    d = _random(2).double() - _random(3).double()
    expected = {
        "l2": d**2,
        "l1": d.abs(),
        "huber": 2 * c * ((d**2 + c**2).sqrt() - c),
        "smooth_l1": 2 * ((d**2 + c**2).sqrt() - c),
    }[kind].mean(dim=(1, 2, 3))
    settings = Settings(loss_type=kind, huber_schedule=schedule, huber_c=least)
    ours = per_image_losses(_random(2), _random(3), T, DDPM({}), settings)
    torch.testing.assert_close(ours.double(), expected, rtol=2e-4, atol=1e-6)


def test_hubers_threshold_falls_from_one():
    alphas, sigmas = DDPM({}).alphas_sigmas(torch.arange(1000))
    for kind in ("snr", "exponential"):
        c = huber_threshold(kind, 0.1, torch.arange(1000), 1000, alphas, sigmas).flatten()
        assert (c.diff() < 0).all() and c[0] > 0.9 and 0.09 < c[-1] < 0.12


# -- noise ------------------------------------------------------------------------------------------------------------


def test_offset_noise_shifts_each_channel():
    noise = sample_noise(torch.Size((2, 4, 8, 8)), generator_for(1), Settings(offset_noise=0.1))
    generator = generator_for(1)
    expected = torch.randn(2, 4, 8, 8, generator=generator).double()
    expected += 0.1 * torch.randn(2, 4, 1, 1, generator=generator).double()
    torch.testing.assert_close(noise.double(), expected)


def test_multi_resolution_noise():
    """Whitaker's pyramid: each level coarser by a factor in 2..4, weighted by a power of the discount."""
    settings = Settings(multires_noise_iterations=4, multires_noise_discount=0.4)
    noise = sample_noise(torch.Size((3, 4, 16, 24)), generator_for(1), settings)
    generator = generator_for(1)
    expected, (h, w) = torch.randn(3, 4, 16, 24, generator=generator).double(), (16, 24)
    for level in (1, 2, 3, 4):
        r = 2 + 2 * torch.rand((), generator=generator).item()
        h, w = max(1, int(h / r)), max(1, int(w / r))
        coarse = torch.randn(3, 4, h, w, generator=generator).double()
        expected += 0.4**level * F.interpolate(coarse, size=(16, 24), mode="bilinear")
        if (h, w) == (1, 1):
            break
    expected = torch.stack([one / one.std() for one in expected])
    torch.testing.assert_close(noise.double(), expected, rtol=1e-4, atol=1e-5)
    flat, plain = noise.mean(dim=(2, 3)).std(), torch.randn(3, 4, 16, 24).mean(dim=(2, 3)).std()
    assert flat > 1.3 * plain, "there is more of it in what is large"


def test_input_perturbation_is_seen_but_not_asked_for():
    losses, unet, latents = _step(Settings(input_perturbation=0.2), output=lambda x, t: 0.0 * x)
    t, noise, generator = _sampled(3)
    more = torch.randn(3, 4, 8, 8, generator=generator).double()
    inputs, timesteps = unet.inputs[0]
    assert torch.equal(timesteps, t)
    torch.testing.assert_close(inputs, _mix(latents, noise + 0.2 * more, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses.total.double(), noise.square().mean(), rtol=1e-5, atol=1e-6)


def test_timesteps_stay_in_their_range():
    timesteps = torch.cat(
        [_step(Settings(min_timestep=300, max_timestep=310), step=s)[1].inputs[0][1] for s in range(60)]
    )
    assert set(timesteps.tolist()) == set(range(300, 310))
    assert torch.equal(_step(Settings())[1].inputs[0][1], _sampled(3)[0])


# -- combined ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_dream(kind, power):
    """arXiv:2312.00210, algorithm 1, for both targets; the first prediction gives no gradients."""
    settings = Settings(use_dream=True, dream_detail_preservation=power)
    losses, unet, latents = _step(settings, kind)
    losses.total.backward()
    t, noise, _ = _sampled(3)
    a, s = ALPHAS_CUMPROD[t].sqrt()[:, None, None, None], (1 - ALPHAS_CUMPROD[t]).sqrt()[:, None, None, None]
    inputs = _mix(latents, noise, t)
    found = 0.5 * inputs if kind == "epsilon" else a * 0.5 * inputs + s * inputs
    delta = s**power * (noise - found)
    again = inputs + s * delta
    target = noise + delta if kind == "epsilon" else a * (noise + delta) - s * latents
    assert len(unet.inputs) == 2
    torch.testing.assert_close(unet.inputs[1][0], again, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses.total.double(), (0.5 * again - target).square().mean(), rtol=1e-4, atol=1e-5)
    slope = (2 * (0.5 * again - target) * 0.5 * again).mean()
    torch.testing.assert_close(unet.of.grad.double()[0], slope, rtol=1e-3, atol=1e-4)


def test_dream_keeps_autocasts_gradients():
    """Casts of weights that autocast cached under no_grad must not be used in the training step."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(4, 4, 1)

        def forward(self, x, t, encoder_hidden_states, return_dict, added_cond_kwargs=None):
            return (self.layer(x),)

    unet = Net()
    prompts = SimpleNamespace(batch=lambda captions: Conditioning({"states": torch.zeros(1, 77, 8)}))
    latents = SimpleNamespace(batch=lambda examples, generator: _random(1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        losses = diffusion_losses(
            UNetDenoiser(unet), DDPM({}), latents, prompts, None, Batch((_example(0),), ()), generator_for(0),
            Settings(use_dream=True), prior_weight=1.0,
        )  # fmt: skip
    losses.total.backward()
    assert unet.layer.weight.grad is not None and unet.layer.weight.grad.abs().sum() > 0


ALL = [{}, {"min_snr_gamma": 5.0}, {"debiased_estimation": True}, {"loss_type": "huber"}, {"loss_type": "l1"},
       {"use_dream": True}, {"multires_noise_iterations": 3}, {"offset_noise": 0.1}]  # fmt: skip


@pytest.mark.parametrize("chosen", ALL, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_unet_that_is_exact_has_no_loss(kind, chosen):
    latents = _random(1, 5)

    def exact(noisy, t):
        a, s = (x.float()[:, None, None, None] for x in (ALPHAS_CUMPROD[t].sqrt(), (1 - ALPHAS_CUMPROD[t]).sqrt()))
        noise = (noisy - a * latents) / s
        return noise if kind == "epsilon" else a * noise - s * latents

    losses, _, _ = _step(Settings(**chosen), kind, n=3, classes=2, output=exact)
    assert max(losses.total, losses.instance, losses.prior) < 2e-3
    assert _step(Settings(**chosen), kind, n=3, classes=2)[0].total > 0.05


@pytest.mark.parametrize("chosen", [{}, {"min_snr_gamma": 5.0}])
def test_prior_loss_is_split_or_not(chosen):
    split, _, _ = _step(Settings(**chosen), n=3, classes=2, weight=0.25)
    one, _, _ = _step(Settings(split_loss=False, **chosen), n=3, classes=2, weight=0.25)
    torch.testing.assert_close(split.total, split.instance + 0.25 * split.prior)
    torch.testing.assert_close(one.total, (3 * split.instance + 2 * split.prior) / 5)
    assert (one.instance, one.prior) == (split.instance, split.prior)


def test_the_prior_loss_weight_falls_to_its_minimum():
    scaled = Settings(prior_loss_scale=True, prior_loss_weight=1.0, prior_loss_weight_min=0.2, prior_loss_target=4)
    assert [prior_weight_at(scaled, epoch) for epoch in range(7)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert prior_weight_at(Settings(prior_loss_weight=0.3), 50) == 0.3
    assert prior_weight_at(Settings(prior_loss_scale=True, prior_loss_weight=0.05), 50) == 0.05


def test_masked_loss_counts_what_is_white_or_visible(tmp_path):
    with_mask, transparent, plain = tmp_path / "mask.png", tmp_path / "b.png", tmp_path / "c.png"
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))  # the left half
    mask.save(with_mask)
    visible = Image.new("RGBA", (64, 64), (200, 0, 0, 255))
    visible.paste((0, 0, 0, 0), (0, 0, 64, 48))  # opaque: the left part of the lowest quarter
    visible.paste((0, 0, 0, 0), (48, 48, 64, 64))
    visible.save(transparent)
    Image.new("RGB", (64, 64)).save(plain)
    examples = [_example(0, mask=with_mask), _example(1, path=transparent), _example(2, path=plain)]
    weights = LossMasks(0.25, DEFAULT_CODEC, torch.device("cpu")).batch(examples)
    expected = torch.full((3, 1, 8, 8), 0.25)
    expected[0, :, :, :4] = expected[1, :, 6:, :6] = expected[2] = 1.0
    torch.testing.assert_close(weights, expected)
    mirrored = [dataclasses.replace(example, flipped=True) for example in examples]
    assert torch.equal(LossMasks(0.25, DEFAULT_CODEC, torch.device("cpu")).batch(mirrored), weights.flip(3))
    predicted, target, t = _random(2, 3), _random(3, 3), T[:3]
    ours = per_image_losses(predicted, target, t, DDPM({}), Settings(masked_loss=True), weights)
    theirs = ((predicted - target).double() ** 2 * expected.double()).mean(dim=(1, 2, 3))
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)
