"""The training objective: denoising loss of a batch, with all options of the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dreambooth.dataset.plan import Batch
from dreambooth.models.conditioning import Conditioning
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.process import Process
from dreambooth.models.transfer import to_device
from dreambooth.settings import Settings
from dreambooth.training.dream import dream_rectify
from dreambooth.training.inpainting import InpaintingInputs
from dreambooth.training.inputs import LatentStore, image_size
from dreambooth.training.loss_functions import elementwise_loss, huber_threshold
from dreambooth.training.loss_masks import LossMasks
from dreambooth.training.loss_weighting import debiased_weight, min_snr_weight
from dreambooth.training.noise import sample_noise
from dreambooth.training.prompts import PromptEmbedder


@dataclass(frozen=True)
class Losses:
    """Scalars on the device. ``total`` is the one that is backpropagated."""

    total: torch.Tensor
    instance: torch.Tensor
    prior: torch.Tensor | None


@dataclass(frozen=True)
class BatchInputs:
    """A batch of B images with what is drawn for them, (B, ...) each, on the device.

    ``loss_mask``: weights of the latent pixels. ``image_weights``: of each image's loss, if some of the instance images
    are regularization images.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    noisy_latents: torch.Tensor
    extra_channels: torch.Tensor | None
    loss_mask: torch.Tensor | None
    image_weights: torch.Tensor | None

    def tensors(self) -> dict[str, torch.Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> BatchInputs:
        """``function`` of each tensor."""
        return dataclasses.replace(self, **{name: function(value) for name, value in self.tensors().items()})


def diffusion_losses(
    denoiser: Denoiser,
    process: Process,
    latent_store: LatentStore,
    prompts: PromptEmbedder,
    inpainting: InpaintingInputs | None,
    batch: Batch,
    generator: torch.Generator,
    settings: Settings,
    *,
    prior_weight: float,
    loss_masks: LossMasks | None = None,
) -> Losses:
    """Denoising loss of one batch: of instance images, and of class images with their own weight.

    DreamBooth (arXiv:2208.12242), eq. 2: E|eps - denoiser(x_t)|^2 + prior_weight * E|eps' - denoiser(x'_t)|^2.
    Random numbers are taken from ``generator`` in this order: noise of the VAE's posterior, timesteps, diffusion noise,
    input perturbation if it is on, ``inpainting`` if the model needs it.
    """
    inputs = draw_inputs(process, latent_store, inpainting, batch, generator, settings, prior_weight, loss_masks)
    conditioning = prepare_conditioning(denoiser, prompts, batch)
    return losses_of(denoiser, process, inputs, conditioning, len(batch.instances), settings, prior_weight)


def losses_of(
    denoiser: Denoiser,
    process: Process,
    inputs: BatchInputs,
    conditioning: Conditioning,
    n_instances: int,
    settings: Settings,
    prior_weight: float,
) -> Losses:
    """What :func:`diffusion_losses` computes on the device, from inputs that are there.

    The first ``n_instances`` images of the batch are instance images, the others class images.
    """
    predicted, target = _predict(denoiser, process, inputs, conditioning, settings)
    if inputs.image_weights is not None:
        errors = per_image_losses(predicted, target, inputs.t, process, settings, inputs.loss_mask)
        return _regularized_losses(errors, inputs.image_weights, n_instances, settings, prior_weight)
    return _losses(predicted, target, inputs.t, process, settings, inputs.loss_mask, n_instances, prior_weight)


def losses_in_parts(
    denoiser: Denoiser,
    process: Process,
    latent_store: LatentStore,
    prompts: PromptEmbedder,
    inpainting: InpaintingInputs | None,
    batch: Batch,
    generator: torch.Generator,
    settings: Settings,
    *,
    prior_weight: float,
    loss_masks: LossMasks | None = None,
    n_parts: int,
) -> Iterator[Losses]:
    """The loss of :func:`diffusion_losses` as summands of ``n_parts`` parts of the batch, each with a graph of its own.

    Backpropagated one by one, they need the activations of one part at a time. The random numbers are the same; sums
    differ by rounding.
    """
    inputs = draw_inputs(process, latent_store, inpainting, batch, generator, settings, prior_weight, loss_masks)
    weights = _image_weights(batch, settings, prior_weight).to(inputs.latents.device)
    for part in range(n_parts):
        rows = slice(part, None, n_parts)
        conditioning = prepare_conditioning(denoiser, prompts, batch).select(rows)
        own = inputs.map(lambda tensor, rows=rows: tensor[rows])
        predicted, target = _predict(denoiser, process, own, conditioning, settings)
        errors = per_image_losses(predicted, target, own.t, process, settings, own.loss_mask)
        total, instance, prior = (weights[:, rows] * errors).sum(dim=1)
        yield Losses(total, instance, prior if batch.classes else None)


def draw_inputs(
    process: Process,
    latent_store: LatentStore,
    inpainting: InpaintingInputs | None,
    batch: Batch,
    generator: torch.Generator,
    settings: Settings,
    prior_weight: float,
    loss_masks: LossMasks | None,
) -> BatchInputs:
    """The inputs of a batch; random numbers as :func:`diffusion_losses` says."""
    examples = (*batch.instances, *batch.classes)
    latents = latent_store.batch(examples, generator)
    device = latents.device
    n_tokens = process.count_tokens(latents.shape)
    t = to_device(process.sample_timesteps(len(examples), generator, settings, n_tokens), device)
    noise = to_device(sample_noise(latents.shape, generator, settings), device)
    noisy_latents = process.add_noise(latents, _perturb(noise, generator, settings), t)
    extra_channels = inpainting.extra_channels(examples, generator) if inpainting else None
    loss_mask = loss_masks.batch(examples) if loss_masks else None
    image_weights = None
    if batch.has_regularization:
        weight = prior_weight if settings.split_loss else 1.0
        image_weights = to_device(torch.tensor([weight if e.is_class else 1.0 for e in batch.instances]), device)
    return BatchInputs(latents, noise, t, noisy_latents, extra_channels, loss_mask, image_weights)


def prepare_conditioning(denoiser: Denoiser, prompts: PromptEmbedder, batch: Batch) -> Conditioning:
    """The batch's prompts and image sizes, as the denoiser takes them."""
    examples = (*batch.instances, *batch.classes)
    embedding = prompts.batch([example.caption for example in examples])
    return denoiser.prepare(embedding, [image_size(example) for example in examples])


def _predict(
    denoiser: Denoiser, process: Process, inputs: BatchInputs, conditioning: Conditioning, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The model output and its target."""

    def predict(noisy_latents: torch.Tensor) -> torch.Tensor:
        return denoiser.predict(noisy_latents, inputs.t, conditioning, inputs.extra_channels)

    if not settings.use_dream:
        return predict(inputs.noisy_latents), process.target(inputs.latents, inputs.noise, inputs.t)
    noisy_latents, target = dream_rectify(
        predict, process, inputs.noisy_latents, inputs.latents, inputs.noise, inputs.t,
        settings.dream_detail_preservation,
    )  # fmt: skip
    return predict(noisy_latents), target


def prior_weight_at(settings: Settings, epoch: int) -> float:
    """Weight of the class images in an epoch, counted from 0. If it is scaled, it decays linearly to the minimum."""
    weight = settings.prior_loss_weight
    if not settings.prior_loss_scale:
        return weight
    minimum = min(weight, settings.prior_loss_weight_min)
    return weight + (minimum - weight) * min(1.0, epoch / settings.prior_loss_target)


def _losses(
    predicted: torch.Tensor,
    target: torch.Tensor,
    t: torch.Tensor,
    process: Process,
    settings: Settings,
    weights: torch.Tensor | None,
    n: int,
    prior_weight: float,
) -> Losses:
    """The first ``n`` images of the batch are instance images, the others class images."""
    if _is_plain_mse(settings) and weights is None:
        whole = F.mse_loss(predicted, target) if n == len(predicted) else None

        def mean(rows: slice) -> torch.Tensor:
            return F.mse_loss(predicted[rows], target[rows])
    else:
        errors = per_image_losses(predicted, target, t, process, settings, weights)
        whole = errors.mean() if n == len(predicted) else None

        def mean(rows: slice) -> torch.Tensor:
            return errors[rows].mean()

    if whole is not None:
        return Losses(whole, whole, None)
    instance, prior = mean(slice(n)), mean(slice(n, None))
    total = instance + prior_weight * prior if settings.split_loss else mean(slice(None))
    return Losses(total, instance, prior)


def _regularized_losses(
    errors: torch.Tensor, weights: torch.Tensor, n: int, settings: Settings, prior_weight: float
) -> Losses:
    """With regularization images among the ``n`` instance images: one mean over both, in which they weigh
    ``prior_weight``.

    This is the loss of kohya's sd-scripts. Class images, if a concept has them too, have a mean of their own.
    """
    instance = (errors[:n] * weights).mean()
    if n == len(errors):
        return Losses(instance, instance, None)
    prior = errors[n:].mean()
    return Losses(instance + prior_weight * prior if settings.split_loss else errors.mean(), instance, prior)


def _image_weights(batch: Batch, settings: Settings, prior_weight: float) -> torch.Tensor:
    """(3, B): each image's weight in the total, instance and prior loss of the batch."""
    n, m = len(batch.instances), len(batch.classes)
    regularization = prior_weight if settings.split_loss else 1.0
    instance = [(regularization if example.is_class else 1.0) / n for example in batch.instances] + [0.0] * m
    prior = [0.0] * n + [1.0 / m] * m
    split = [own + prior_weight * other for own, other in zip(instance, prior, strict=True)]
    total = split if settings.split_loss or not m else [1.0 / (n + m)] * (n + m)
    return torch.tensor([total, instance, prior])


def per_image_losses(
    predicted: torch.Tensor,
    target: torch.Tensor,
    t: torch.Tensor,
    process: Process,
    settings: Settings,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of each image, weighted as the settings say, (B,). ``weights``: of the latent pixels, (B, 1, h, w)."""
    alphas, sigmas = process.alphas_sigmas(t)
    threshold = huber_threshold(settings.huber_schedule, settings.huber_c, t, process.num_timesteps, alphas, sigmas)
    errors = elementwise_loss(settings.loss_type, predicted, target, threshold)
    if weights is not None:
        errors = errors * weights
    losses, snr = errors.mean(dim=(1, 2, 3)), process.snr(t)
    if settings.min_snr_gamma:
        losses = losses * min_snr_weight(snr, settings.min_snr_gamma, process.prediction_type)
    if settings.debiased_estimation:
        losses = losses * debiased_weight(snr, process.prediction_type)
    if settings.flow_loss_weighting != "none":
        losses = losses * process.loss_weight(t, settings.flow_loss_weighting)
    return losses


def _is_plain_mse(settings: Settings) -> bool:
    """Whether the loss is the unweighted mean squared error, which one kernel computes."""
    is_weighted = settings.min_snr_gamma or settings.debiased_estimation or settings.flow_loss_weighting != "none"
    return settings.loss_type == "l2" and not is_weighted


def _perturb(noise: torch.Tensor, generator: torch.Generator, settings: Settings) -> torch.Tensor:
    """Input perturbation (arXiv:2301.11706, algorithm 1): extra noise in the input that is not part of the target."""
    if not settings.input_perturbation:
        return noise
    extra = torch.randn(noise.shape, generator=generator)
    return torch.add(noise, to_device(extra, noise.device), alpha=settings.input_perturbation)
