"""The training steps of a run, recorded, and a reference of the same steps, computed from the settings.

The reference shares no code with the objective, the noise or the prompts: it uses diffusers' and transformers' modules
of the model folder, and float64. Only the pixels of the planned crops and the random numbers are shared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from transformers import CLIPTextModel, CLIPTokenizer

from dreambooth.dataset.pixels import load_pixels
from dreambooth.dataset.plan import Batch, Example
from dreambooth.settings import Settings
from dreambooth.training import step as training_step
from dreambooth.training.noise import generator_for

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
HALF_TRANSPARENT = "1.png"  # of the test images: its right half


@dataclass
class UnetCall:
    noisy_latents: torch.Tensor
    t: torch.Tensor
    states: torch.Tensor
    output: torch.Tensor


@dataclass
class RecordedStep:
    batch: Batch
    calls: list[UnetCall]  # two with DREAM, of which the second is trained
    total: float
    instance: float
    prior: float | None

    @property
    def examples(self) -> tuple[Example, ...]:
        return (*self.batch.instances, *self.batch.classes)


@contextlib.contextmanager
def recording() -> Iterator[list[RecordedStep]]:
    """Record the UNet calls of the loop and its losses, batch by batch."""
    steps: list[RecordedStep] = []
    calls: list[UnetCall] = []
    losses_of, forward = training_step.diffusion_losses, UNet2DConditionModel.forward

    def recorded_forward(self: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, *rest: Any, **more: Any):
        result = forward(self, sample, timestep, encoder_hidden_states, *rest, **more)
        output = result[0] if isinstance(result, tuple) else result.sample
        parts = (sample, timestep, encoder_hidden_states, output)
        calls.append(UnetCall(*(part.detach().clone() for part in parts)))
        return result

    def recorded_losses(*arguments: Any, **more: Any) -> Any:
        calls.clear()
        losses = losses_of(*arguments, **more)
        (batch,) = [value for value in (*arguments, *more.values()) if isinstance(value, Batch)]
        prior = None if losses.prior is None else losses.prior.item()
        steps.append(RecordedStep(batch, list(calls), losses.total.item(), losses.instance.item(), prior))
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet2DConditionModel, "forward", recorded_forward)
        patch.setattr(training_step, "diffusion_losses", recorded_losses)
        yield steps


def check_steps(steps: Sequence[RecordedStep], epochs: Sequence[int], settings: Settings, working: Path) -> None:
    """AssertionError if a step differs from the reference below, which uses the text encoders before the run."""
    assert steps
    for number, (step, epoch) in enumerate(zip(steps, epochs, strict=True)):
        generator = generator_for(settings.seed, "noise", number, 0)
        check_captions(step.examples, settings)
        if number == 0:
            close(step.calls[0].states, text_states(step.examples, settings, working))
        check_loss(step, epoch, generator, settings, working)


def check_captions(examples: Sequence[Example], settings: Settings) -> None:
    """Each caption is that of its file; if shuffled, its tags after the first are in any order."""
    for example in examples:
        caption = example.path.with_suffix(".txt").read_text()
        if settings.shuffle_tags:
            assert example.caption.split(", ")[0] == caption.split(", ")[0]
            assert sorted(example.caption.split(", ")) == sorted(caption.split(", "))
        else:
            assert example.caption == caption


def check_loss(step: RecordedStep, epoch: int, generator: torch.Generator, settings: Settings, working: Path) -> None:
    moments = torch.stack(
        [latent_moments(working, dataclasses.replace(example, caption="", variants=())) for example in step.examples]
    )
    mean, std = moments.chunk(2, dim=1)
    n, shape = len(step.examples), mean.shape
    latents = (mean + std * torch.randn(shape, generator=generator)) * vae(working).config.scaling_factor
    t = timesteps(n, settings, generator)
    noise = torch.randn(shape, generator=generator).double()
    if settings.multires_noise_iterations:
        noise = pyramid(noise, settings, generator)
    if settings.offset_noise:
        noise = noise + settings.offset_noise * torch.randn(n, shape[1], 1, 1, generator=generator)
    alphas_cumprod = torch.cumprod(1 - (rescale_zero_terminal_snr(BETAS) if settings.zero_terminal_snr else BETAS), 0)
    signal, share = (value[t][:, None, None, None] for value in (alphas_cumprod**0.5, (1 - alphas_cumprod) ** 0.5))
    perturbation = torch.randn(shape, generator=generator) if settings.input_perturbation else torch.zeros(shape)
    noisy_latents = signal * latents + share * (noise + settings.input_perturbation * perturbation)
    target = noise

    first, *more = step.calls
    assert torch.equal(first.t, t)
    close(first.noisy_latents, noisy_latents)
    call = first
    if settings.use_dream:
        (call,) = more
        change = share**settings.dream_detail_preservation * (noise - first.output)
        close(call.noisy_latents, noisy_latents + share * change)
        target = noise + change
    else:
        assert not more

    snr = (signal / share).flatten() ** 2
    difference = call.output.double() - target
    errors = elementwise(difference, huber_threshold(settings, t, snr), settings.loss_type)
    if settings.masked_loss:
        errors = errors * torch.stack([mask(example, errors.shape[1:], settings) for example in step.examples])
    losses = errors.mean(dim=(1, 2, 3))
    if settings.min_snr_gamma:
        losses = losses * snr.clamp(max=settings.min_snr_gamma) / snr
    if settings.debiased_estimation:
        losses = losses / snr.sqrt()

    n_instances = len(step.batch.instances)
    instance, prior = losses[:n_instances].mean().item(), losses[n_instances:].mean().item()
    total = instance + prior_weight(settings, epoch) * prior if settings.split_loss else losses.mean().item()
    assert step.instance == pytest.approx(instance, rel=2e-3)
    assert step.prior == pytest.approx(prior, rel=2e-3)
    assert step.total == pytest.approx(total, rel=2e-3)


def close(ours: torch.Tensor, written_out: torch.Tensor) -> None:
    assert ours.shape == written_out.shape
    torch.testing.assert_close(ours.double(), written_out.double(), rtol=5e-4, atol=5e-4)


# -- the parts of it -----------------------------------------------------------------------------------------------


def prior_weight(settings: Settings, epoch: int) -> float:
    weight = settings.prior_loss_weight
    if settings.prior_loss_scale:
        least = min(weight, settings.prior_loss_weight_min)
        weight -= (weight - least) * min(1.0, epoch / settings.prior_loss_target)
    return weight


def timesteps(n: int, settings: Settings, generator: torch.Generator) -> torch.Tensor:
    first, end, shift = settings.min_timestep, min(settings.max_timestep, 1000), settings.timestep_shift
    kind = settings.timestep_sampling
    if kind == "uniform" and shift == 1:
        return torch.randint(first, end, (n,), generator=generator)
    if kind in ("logit_normal", "sigmoid"):
        normal = torch.randn(n, generator=generator).double()
        scaled = settings.sigmoid_scale * normal
        fraction = (
            settings.timestep_mean + settings.timestep_std * normal if kind == "logit_normal" else scaled
        ).sigmoid()
    else:
        fraction = torch.rand(n, generator=generator).double()
        if kind == "mode":
            fraction = 1 - fraction - settings.mode_scale * ((math.pi * fraction / 2).cos() ** 2 - 1 + fraction)
    shifted = shift * fraction / (1 + (shift - 1) * fraction)
    return (first + shifted * (end - first)).long()


def pyramid(noise: torch.Tensor, settings: Settings, generator: torch.Generator) -> torch.Tensor:
    size = (height, width) = noise.shape[2:]
    for level in range(1, settings.multires_noise_iterations + 1):
        coarser = 2 + 2 * torch.rand((), generator=generator).item()
        height, width = max(1, int(height / coarser)), max(1, int(width / coarser))
        coarse = torch.randn(*noise.shape[:2], height, width, generator=generator).double()
        noise = noise + settings.multires_noise_discount**level * F.interpolate(coarse, size, mode="bilinear")
        if height == width == 1:
            break
    return torch.stack([one / one.std() for one in noise])


def huber_threshold(settings: Settings, t: torch.Tensor, snr: torch.Tensor) -> torch.Tensor:
    least = settings.huber_c
    thresholds = {
        "snr": (1 - least) / (1 + snr**-0.5) ** 2 + least,
        "exponential": torch.exp(math.log(least) / 1000 * t.double()),
        "constant": torch.full((len(t),), least, dtype=torch.float64),
    }
    return thresholds[settings.huber_schedule][:, None, None, None]


def elementwise(difference: torch.Tensor, c: torch.Tensor, loss_type: str) -> torch.Tensor:
    return {
        "l2": difference**2,
        "l1": difference.abs(),
        "huber": 2 * c * ((difference**2 + c**2).sqrt() - c),
        "smooth_l1": 2 * ((difference**2 + c**2).sqrt() - c),
    }[loss_type]


def mask(example: Example, shape: Sequence[int], settings: Settings) -> torch.Tensor:
    weights = torch.ones(shape, dtype=torch.float64)
    if example.path.name == HALF_TRANSPARENT:
        assert example.crop.resized_w == example.crop.width and not example.flipped
        weights[:, :, shape[2] // 2 :] = settings.unmasked_weight
    return weights


@functools.cache
def vae(working: Path) -> Any:
    return AutoencoderKL.from_pretrained(working / "vae").float()


@functools.cache
@torch.no_grad()
def latent_moments(working: Path, example: Example) -> torch.Tensor:
    pixels = load_pixels(dataclasses.replace(example, flipped=False))
    posterior = vae(working).encode((pixels.flip(2) if example.flipped else pixels)[None]).latent_dist
    return torch.cat([posterior.mean, posterior.std], dim=1)[0]


@functools.cache
def text_modules(working: Path) -> tuple[Any, Any]:
    encoder = CLIPTextModel.from_pretrained(working / "text_encoder").float()
    return CLIPTokenizer.from_pretrained(working / "tokenizer"), encoder


@torch.no_grad()
def text_states(examples: Sequence[Example], settings: Settings, working: Path) -> torch.Tensor:
    """Of captions that fit into one chunk of 75 tokens."""
    tokenizer, encoder = text_modules(working)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = []
    for example in examples:
        ids, weights = [start], [1.0]
        for text, weight in emphasized_parts(example.caption) if settings.weighted_captions else [(example.caption, 1)]:
            for number, piece in enumerate(re.split(r"[,;.!?](?:\s+|$)", text) if settings.strict_tokens else [text]):
                if number:
                    between = [end, *tokenizer(",", add_special_tokens=False).input_ids, start]
                    ids, weights = ids + between, weights + [1.0] * len(between)
                own = tokenizer(piece, add_special_tokens=False).input_ids
                ids, weights = ids + own, weights + [weight] * len(own)
        assert len(ids) < 77
        rows.append((len(ids) + 1, [*ids, end], weights))
    tokens = torch.tensor([ids + [tokenizer.pad_token_id] * (77 - length) for length, ids, _ in rows])
    layers = encoder(tokens, output_hidden_states=True).hidden_states
    norm = getattr(encoder, "text_model", encoder).final_layer_norm
    states = norm(layers[-settings.clip_skip]).double()
    for number, (length, _, weights) in enumerate(rows):
        weighted = states[number] * torch.tensor([*weights, *[1.0] * (77 - length + 1)])[:, None]
        states[number] = weighted * states[number].mean() / weighted.mean()
    return states if settings.pad_tokens else states[:, : max(length for length, _, _ in rows)]


def emphasized_parts(caption: str) -> list[tuple[str, float]]:
    """``(words)`` count 1.1 times as much; there are no other brackets in the test images' captions."""
    return [(part, 1.1 if number % 2 else 1.0) for number, part in enumerate(re.split(r"\(([^()]*)\)", caption))]
