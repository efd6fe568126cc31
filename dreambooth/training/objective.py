"""What a step minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dreambooth.checkpoints.text_encoding import conditions
from dreambooth.dataset.plan import Batch
from dreambooth.settings import Settings
from dreambooth.training.dream import rectified
from dreambooth.training.inpainting import InpaintingInputs
from dreambooth.training.inputs import Latents, time_ids
from dreambooth.training.loss_functions import distance, huber_threshold
from dreambooth.training.loss_masks import LossMasks
from dreambooth.training.loss_weighting import debiased, min_snr
from dreambooth.training.noise import NoiseSchedule, draw_noise
from dreambooth.training.precision import to_device
from dreambooth.training.prompts import PromptEmbedder


@dataclass(frozen=True)
class Losses:
    """Scalars on the device. ``total`` is what the gradients come from."""

    total: torch.Tensor
    instance: torch.Tensor
    prior: torch.Tensor | None


def diffusion_losses(
    unet: torch.nn.Module,
    schedule: NoiseSchedule,
    latents: Latents,
    prompts: PromptEmbedder,
    masked: InpaintingInputs | None,
    batch: Batch,
    generator: torch.Generator,
    settings: Settings,
    *,
    prior_weight: float,
    loss_masks: LossMasks | None = None,
) -> Losses:
    """Denoising error of one batch: instance pictures, and class pictures with their own weight.

    DreamBooth (arXiv:2208.12242), eq. 2: E|eps - unet(x_t)|^2 + prior_weight * E|eps' - unet(x'_t)|^2.
    ``generator`` yields, in this order, the posterior's noise, the timesteps, the diffusion noise, the input's
    perturbation where that is on and, for an inpainting unet, what ``masked`` needs.
    """
    examples = (*batch.instances, *batch.classes)
    clean = latents.batch(examples, generator)
    latest = min(settings.max_timestep, schedule.timesteps)
    t = to_device(torch.randint(settings.min_timestep, latest, (len(examples),), generator=generator), clean.device)
    noise = to_device(draw_noise(clean.shape, generator, settings), clean.device)
    embedding = prompts.batch([example.caption for example in examples])
    dtype = next(unet.parameters()).dtype
    seen = schedule.add_noise(clean, _perturbed(noise, generator, settings), t)
    around = masked.channels(examples, generator) if masked else None
    sizes = None if embedding.pooled is None else to_device(time_ids(examples), clean.device)
    told = conditions(embedding, sizes, dtype)

    def predict(noisy: torch.Tensor) -> torch.Tensor:
        whole = noisy if around is None else torch.cat([noisy, around], dim=1)
        return unet(whole.to(dtype), t, **told)[0].float()

    if settings.use_dream:
        seen, target = rectified(predict, schedule, seen, clean, noise, t, settings.dream_detail_preservation)
        predicted = predict(seen)
    else:
        predicted = predict(seen)
        target = schedule.target(clean, noise, t)
    weights = loss_masks.batch(examples) if loss_masks else None
    if batch.regularizes:
        errors = per_image_losses(predicted, target, t, schedule, settings, weights)
        return _regularized(errors, batch, settings, prior_weight)
    return _losses(predicted, target, t, schedule, settings, weights, len(batch.instances), prior_weight)


def prior_weight_in(settings: Settings, epoch: int) -> float:
    """Weight of the class pictures in an epoch (counted from 0): where it is scaled, it falls evenly to the minimum."""
    weight = settings.prior_loss_weight
    if not settings.prior_loss_scale:
        return weight
    least = min(weight, settings.prior_loss_weight_min)
    return weight + (least - weight) * min(1.0, epoch / settings.prior_loss_target)


def _losses(
    predicted: torch.Tensor,
    target: torch.Tensor,
    t: torch.Tensor,
    schedule: NoiseSchedule,
    settings: Settings,
    weights: torch.Tensor | None,
    n: int,
    prior_weight: float,
) -> Losses:
    """The first ``n`` of a batch are instance pictures, the others class pictures."""
    if _plain(settings) and weights is None:
        parts = F.mse_loss(predicted, target) if n == len(predicted) else None

        def mean(rows: slice) -> torch.Tensor:
            return F.mse_loss(predicted[rows], target[rows])
    else:
        errors = per_image_losses(predicted, target, t, schedule, settings, weights)
        parts = errors.mean() if n == len(predicted) else None

        def mean(rows: slice) -> torch.Tensor:
            return errors[rows].mean()

    if parts is not None:
        return Losses(parts, parts, None)
    instance, prior = mean(slice(n)), mean(slice(n, None))
    total = instance + prior_weight * prior if settings.split_loss else mean(slice(None))
    return Losses(total, instance, prior)


def _regularized(errors: torch.Tensor, batch: Batch, settings: Settings, prior_weight: float) -> Losses:
    """With regularization pictures among the others: one mean of them all, in which those count ``prior_weight``.

    So do kohya's sd-scripts. Class partners, where a concept has them too, keep a mean of their own.
    """
    n = len(batch.instances)
    weight = prior_weight if settings.split_loss else 1.0
    shares = torch.tensor([weight if example.is_class else 1.0 for example in batch.instances])
    instance = (errors[:n] * to_device(shares, errors.device)).mean()
    if n == len(errors):
        return Losses(instance, instance, None)
    prior = errors[n:].mean()
    return Losses(instance + prior_weight * prior if settings.split_loss else errors.mean(), instance, prior)


def per_image_losses(
    predicted: torch.Tensor,
    target: torch.Tensor,
    t: torch.Tensor,
    schedule: NoiseSchedule,
    settings: Settings,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each picture's loss as the settings weigh it, (B,); ``weights`` (B, 1, h, w) of the latent pixels."""
    signal, share = schedule.shares(t)
    bend = huber_threshold(settings.huber_schedule, settings.huber_c, t, schedule.timesteps, signal, share)
    errors = distance(settings.loss_type, predicted, target, bend)
    if weights is not None:
        errors = errors * weights
    losses, snr = errors.mean(dim=(1, 2, 3)), (signal / share).square().flatten()
    if settings.min_snr_gamma:
        losses = losses * min_snr(snr, settings.min_snr_gamma, schedule.prediction_type)
    if settings.debiased_estimation:
        losses = losses * debiased(snr, schedule.prediction_type)
    return losses


def _plain(settings: Settings) -> bool:
    """Whether the loss is nothing but the mean square: then one kernel computes it."""
    return settings.loss_type == "l2" and not settings.min_snr_gamma and not settings.debiased_estimation


def _perturbed(noise: torch.Tensor, generator: torch.Generator, settings: Settings) -> torch.Tensor:
    """Input perturbation (arXiv:2301.11706, algorithm 1): the unet sees a little more noise than it is to find."""
    if not settings.input_perturbation:
        return noise
    more = torch.randn(noise.shape, generator=generator)
    return torch.add(noise, to_device(more, noise.device), alpha=settings.input_perturbation)
