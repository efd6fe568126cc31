"""Diffusion processes, compared with float64 references written out here, and with diffusers' schedulers."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from dreambooth.errors import UserError
from dreambooth.models.process import DDPM, RectifiedFlow, sample_density
from dreambooth.models.timestep_shift import empirical_mu, linear_mu
from dreambooth.settings import Settings
from dreambooth.settings.objective import FLOW_LOSS_WEIGHTINGS, TIMESTEP_SAMPLINGS
from dreambooth.settings.results import SAMPLERS
from dreambooth.training.noise import generator_for, training_scheduler_config
from dreambooth.training.objective import per_image_losses

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS_CUMPROD = torch.cumprod(1 - BETAS, 0)
SD_CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLUX = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "shift": 3.0,
}
PROCESSES = {
    "epsilon": DDPM(SD_CONFIG),
    "v_prediction": DDPM({**SD_CONFIG, "prediction_type": "v_prediction"}),
    "flow": RectifiedFlow({}),
}
TIMESTEPS = {"epsilon": torch.tensor([0, 300, 999]), "flow": torch.tensor([1.0, 300.5, 1000.0])}
TIMESTEPS["v_prediction"] = TIMESTEPS["epsilon"]
N = 4096  # timesteps of a batch, so that distributions show


def _latents_and_noise(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, 8, 8, generator=generator), torch.randn(n, 4, 8, 8, generator=generator)


# -- all processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PROCESSES)
def test_latents_and_noise_are_recovered_from_the_exact_output(kind):
    process, t = PROCESSES[kind], TIMESTEPS[kind]
    latents, noise = _latents_and_noise()
    output = process.target(latents, noise, t)
    x0, recovered_noise = process.x0_and_noise(output, process.add_noise(latents, noise, t), t)
    torch.testing.assert_close(x0, latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(recovered_noise, noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PROCESSES)
def test_validation_timesteps_are_the_middles_of_equal_parts(kind):
    t = PROCESSES[kind].evenly_spaced_timesteps(4)
    assert t.tolist() == [125, 375, 625, 875] and t.dtype == TIMESTEPS[kind].dtype


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampling", TIMESTEP_SAMPLINGS)
@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_sampling_takes_one_tensor_of_random_numbers(kind, sampling, shift):
    """The order of random numbers is part of the promise: what follows the timesteps must not change."""
    generator, expected = generator_for(5), generator_for(5)
    PROCESSES[kind].sample_timesteps(N, generator, Settings(timestep_sampling=sampling, timestep_shift=shift), 1024)
    if kind == "epsilon" and (sampling, shift) == ("uniform", 1.0):
        torch.randint(0, 1000, (N,), generator=expected)
    else:
        (torch.randn if sampling in ("logit_normal", "sigmoid") else torch.rand)(N, generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


DENSITIES = {
    "uniform": {},
    "logit_normal": {"timestep_mean": 0.8, "timestep_std": 0.6},
    "sigmoid": {"sigmoid_scale": 1.5},
    "mode": {"mode_scale": 0.7},
}


@pytest.mark.parametrize("sampling", TIMESTEP_SAMPLINGS)
def test_densities_are_those_of_diffusers(sampling):
    ours = sample_density(N, generator_for(3), Settings(timestep_sampling=sampling, **DENSITIES[sampling]))
    scheme, mean, std = {
        "sigmoid": ("logit_normal", 0.0, 1.5), "logit_normal": ("logit_normal", 0.8, 0.6),
    }.get(sampling, (sampling, None, None))  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(generator_for(3).initial_seed())
        theirs = compute_density_for_timestep_sampling(scheme, N, mean, std, 0.7)
    torch.testing.assert_close(ours, theirs)


CHOICES = [
    {},
    *({"timestep_sampling": name, **values} for name, values in DENSITIES.items()),
    {"timestep_shift": 3.0},
    {"timestep_sampling": "sigmoid", "timestep_shift": 0.4},
    {"timestep_sampling": "logit_normal", "min_timestep": 200, "max_timestep": 700, "timestep_shift": 2.0},
]


def _reference_sigmas(settings: Settings, shift: float = 1.0) -> torch.Tensor:
    """Between 0 and 1, in float64; the random numbers are those of the seed 9."""
    generator, kind = generator_for(9), settings.timestep_sampling
    if kind in ("logit_normal", "sigmoid"):
        normal = torch.randn(N, generator=generator).double()
        mean, std = (settings.timestep_mean, settings.timestep_std) if kind == "logit_normal" else (0.0, None)
        sigmas = 1 / (1 + torch.exp(-(mean + (settings.sigmoid_scale if std is None else std) * normal)))
    else:
        u = torch.rand(N, generator=generator).double()
        scale = settings.mode_scale
        sigmas = 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u) if kind == "mode" else u
    shift *= settings.timestep_shift
    return shift * sigmas / (1 + (shift - 1) * sigmas)


# -- DDPM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_ddpm_adds_noise_and_has_the_target_of_diffusers(kind):
    process, t = PROCESSES[kind], TIMESTEPS[kind]
    latents, noise = _latents_and_noise()
    theirs = DDPMScheduler.from_config({**SD_CONFIG, "num_train_timesteps": 1000})
    torch.testing.assert_close(process.add_noise(latents, noise, t), theirs.add_noise(latents, noise, t))
    target = noise if kind == "epsilon" else theirs.get_velocity(latents, noise, t)
    torch.testing.assert_close(process.target(latents, noise, t), target)
    expected = (ALPHAS_CUMPROD / (1 - ALPHAS_CUMPROD))[t]
    torch.testing.assert_close(process.snr(t).double(), expected, rtol=2e-4, atol=0)


def test_zero_terminal_snr_rescales_as_its_paper():
    """arXiv:2305.08891, algorithm 1, written out."""
    root = ALPHAS_CUMPROD.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    signal, noise = DDPM(training_scheduler_config({}, True)).alphas_sigmas(torch.arange(1000))
    torch.testing.assert_close(signal.flatten().double(), root, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(noise.flatten().double(), (1 - root**2).sqrt(), rtol=1e-5, atol=1e-6)
    assert training_scheduler_config({"a": 1}, False) == {"a": 1}


def test_uniform_timesteps_of_ddpm_are_one_randint():
    settings = Settings(min_timestep=100, max_timestep=900)
    ours = PROCESSES["epsilon"].sample_timesteps(N, generator_for(2), settings)
    assert torch.equal(ours, torch.randint(100, 900, (N,), generator=generator_for(2)))


@pytest.mark.parametrize("chosen", [choice for choice in CHOICES if choice.keys() - {"timestep_sampling"}], ids=str)
def test_other_timesteps_of_ddpm_are_rounded_down(chosen):
    settings = Settings(**chosen)
    t = PROCESSES["epsilon"].sample_timesteps(N, generator_for(9), settings)
    first, end = settings.min_timestep, settings.max_timestep
    expected = (first + (end - first) * _reference_sigmas(settings)).floor().clamp(max=end - 1)
    assert t.dtype == torch.int64 and t.min() >= first and t.max() < end
    assert (t - expected).abs().max() <= 1 and (t == expected).double().mean() > 0.995, "float32 rounds a few up"


def test_ddpm_has_the_samplers_of_the_setting():
    for name in PROCESSES["epsilon"].samplers:
        scheduler = PROCESSES["epsilon"].sampler(name, 4)
        assert type(scheduler).__name__ == f"{name}Scheduler" and scheduler.num_inference_steps == 4
    assert PROCESSES["epsilon"].samplers == SAMPLERS


# -- rectified flow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_adds_noise_as_diffusers(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    t = scheduler.timesteps[[0, 500, 999]]
    latents, noise = _latents_and_noise()
    torch.testing.assert_close(
        PROCESSES["flow"].add_noise(latents, noise, t), scheduler.scale_noise(latents, t, noise), rtol=1e-5, atol=1e-6
    )
    sigmas = (t.double() / 1000)[:, None, None, None]
    written_out = (1 - sigmas) * latents.double() + sigmas * noise.double()
    torch.testing.assert_close(PROCESSES["flow"].add_noise(latents, noise, t).double(), written_out, rtol=0, atol=1e-6)
    assert torch.equal(PROCESSES["flow"].target(latents, noise, t), noise - latents)
    snr = ((1 - sigmas) / sigmas).flatten() ** 2
    torch.testing.assert_close(PROCESSES["flow"].snr(t).double(), snr, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_timesteps_of_flow(chosen):
    settings = Settings(**chosen)
    t = PROCESSES["flow"].sample_timesteps(N, generator_for(9), settings)
    first, end = settings.min_timestep, settings.max_timestep
    expected = (first + (end - first) * _reference_sigmas(settings)).clamp(min=1)
    assert t.dtype == torch.float32 and t.min() >= max(first, 1) and t.max() <= end
    torch.testing.assert_close(t.double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("n_tokens", [256, 1024, 4096, 9216])
def test_resolution_shift_is_that_of_flux(n_tokens):
    """mu as in diffusers' FluxPipeline.calculate_shift, applied by the scheduler's dynamic shifting."""
    settings = Settings(resolution_shift=True, timestep_sampling="sigmoid")
    slope = (1.15 - 0.5) / (4096 - 256)
    mu = n_tokens * slope + (0.5 - slope * 256)
    t = PROCESSES["flow"].sample_timesteps(N, generator_for(9), settings, n_tokens)
    expected = (1000 * _reference_sigmas(settings, math.exp(mu))).clamp(min=1)
    torch.testing.assert_close(t.double(), expected, rtol=1e-5, atol=1e-3)

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    unshifted = _reference_sigmas(Settings(timestep_sampling="sigmoid"))
    theirs = scheduler.time_shift(mu, 1.0, unshifted) * 1000
    torch.testing.assert_close(t.double(), theirs.clamp(min=1), rtol=1e-5, atol=1e-3)


def test_tokens_are_patches_of_latent_pixels():
    assert RectifiedFlow({}, patch_size=2).count_tokens(torch.Size((3, 16, 128, 96))) == 64 * 48


@pytest.mark.parametrize("scheme", FLOW_LOSS_WEIGHTINGS)
def test_flow_loss_weighting_is_that_of_diffusers(scheme):
    t = torch.linspace(1, 1000, 50)
    sigmas = t.double() / 1000
    written_out = {
        "none": torch.ones(50, dtype=torch.float64),
        "sigma_sqrt": sigmas**-2,
        "cosmap": 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2)),
    }[scheme]
    ours = PROCESSES["flow"].loss_weight(t, scheme)
    torch.testing.assert_close(ours.double(), written_out, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours, compute_loss_weighting_for_sd3(scheme, t / 1000))

    latents, noise = _latents_and_noise()
    t = TIMESTEPS["flow"]
    losses = per_image_losses(latents, noise, t, PROCESSES["flow"], Settings(flow_loss_weighting=scheme))
    plain = (latents - noise).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses, plain * PROCESSES["flow"].loss_weight(t, scheme))


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, FLUX], ids=["plain", "shifted", "dynamic"])
def test_euler_has_the_timesteps_of_diffusers_pipelines(config):
    """FluxPipeline passes these sigmas, and mu where the shift depends on the resolution."""
    theirs = FlowMatchEulerDiscreteScheduler.from_config(config)
    mu = {"mu": 1.15} if config.get("use_dynamic_shifting") else {}
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / 8, 8), **mu)
    ours = RectifiedFlow(config).sampler("EulerDiscrete", 8, n_tokens=4096)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 4, 10, 50, 200])
@pytest.mark.parametrize("n_tokens", [256, 1024, 4096, 4300, 4301, 9216])
def test_the_sampler_of_flux2_is_shifted_by_its_empirical_mu(n_tokens, steps):
    """A line through the fitted values at 10 and at 200 steps, in exact fractions, and that of diffusers' pipeline."""
    at_10 = Fraction("0.0000873809524") * n_tokens + Fraction("1.89833333")
    at_200 = Fraction("0.00016927") * n_tokens + Fraction("0.45666666")
    slope = (at_200 - at_10) / 190 if n_tokens <= 4300 else 0
    mu = empirical_mu(n_tokens, steps)
    assert mu == pytest.approx(float(at_200 + slope * (steps - 200)), rel=1e-12)
    theirs: Any = FlowMatchEulerDiscreteScheduler.from_config(FLUX)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    process = RectifiedFlow(FLUX, sampler_mu=empirical_mu)
    ours = process.sampler("EulerDiscrete", steps, n_tokens)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)

    settings = Settings(resolution_shift=True)
    trained = [flow.sample_timesteps(N, generator_for(9), settings, n_tokens) for flow in (process, PROCESSES["flow"])]
    assert torch.equal(*trained), "FLUX.1's line, which is that of many steps"
    assert empirical_mu(n_tokens, 200) == pytest.approx(linear_mu({}, n_tokens), abs=1e-4)


def test_the_empirical_mu_is_that_of_diffusers():
    theirs = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2", reason="diffusers has no FLUX.2")
    for n_tokens, steps in itertools.product((1, 256, 4096, 4300, 4301, 65536), (1, 4, 28, 50, 200, 999)):
        expected = theirs.compute_empirical_mu(n_tokens, steps)
        assert empirical_mu(n_tokens, steps) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("config", [{"shift": 3.0}, FLUX, {"shift_terminal": 0.02}], ids=str)
@pytest.mark.parametrize("name", RectifiedFlow({}).samplers)
def test_samplers_recover_the_latents_from_the_exact_velocity(name, config):
    latents, noise = _latents_and_noise()
    velocity = PROCESSES["flow"].target(latents, noise, TIMESTEPS["flow"])
    for steps in (1, 2, 9):
        scheduler, x = RectifiedFlow(config).sampler(name, steps, 1024), noise
        assert len(scheduler.timesteps) == steps
        for t in scheduler.timesteps:
            x = scheduler.step(velocity, t, x, return_dict=False)[0]
        # DPM++ starts at sigma 0.999
        torch.testing.assert_close(x, latents, rtol=0, atol=0.01 if name == "DPMSolverMultistep" else 1e-4)


def test_a_sampler_that_flow_lacks_is_refused_by_name():
    with pytest.raises(UserError, match=r"scheduler = DDIM: .* Use EulerDiscrete"):
        PROCESSES["flow"].sampler("DDIM", 4)
