"""What a step minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dreambooth.checkpoints.text import conditions
from dreambooth.dataset.plan import Batch
from dreambooth.training.inpainting import MaskedPictures
from dreambooth.training.inputs import Latents, time_ids
from dreambooth.training.noise import NoiseSchedule, draw_noise
from dreambooth.training.precision import to_device
from dreambooth.training.prompts import Prompts


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
    prompts: Prompts,
    masked: MaskedPictures | None,
    batch: Batch,
    generator: torch.Generator,
    *,
    prior_weight: float,
    offset_noise: float,
) -> Losses:
    """Denoising error of one batch: instance pictures, and class pictures with their own weight.

    DreamBooth (arXiv:2208.12242), eq. 2: E|eps - unet(x_t)|^2 + prior_weight * E|eps' - unet(x'_t)|^2.
    ``generator`` yields, in this order, the posterior's noise, the timesteps, the diffusion noise and, for an
    inpainting unet, what ``masked`` needs.
    """
    examples = (*batch.instances, *batch.classes)
    clean = latents.batch(examples, generator)
    t = to_device(torch.randint(schedule.timesteps, (len(examples),), generator=generator), clean.device)
    noise = to_device(draw_noise(clean.shape, generator, offset_noise), clean.device)
    embedding = prompts.batch([example.caption for example in examples])
    dtype = next(unet.parameters()).dtype
    seen = schedule.add_noise(clean, noise, t)
    if masked:
        seen = torch.cat([seen, masked.channels(examples, generator)], dim=1)
    sizes = None if embedding.pooled is None else to_device(time_ids(examples), clean.device)
    predicted = unet(seen.to(dtype), t, **conditions(embedding, sizes, dtype))[0].float()
    target = schedule.target(clean, noise, t)
    if not batch.classes:
        loss = F.mse_loss(predicted, target)
        return Losses(loss, loss, None)
    n = len(batch.instances)
    instance = F.mse_loss(predicted[:n], target[:n])
    prior = F.mse_loss(predicted[n:], target[n:])
    return Losses(instance + prior_weight * prior, instance, prior)
