"""Image generation with modules in memory. Nothing is loaded, and the modules are not changed.

Text encoders and VAE may be on the CPU: each is on the device only while it is used, and the prompts of all images are
encoded first, so that the denoiser needs no more memory than in training. Where the device has no room for the text
encoders beside the denoiser, they run on the CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from dreambooth.autocast import without_autocast
from dreambooth.checkpoints.modules import Modules
from dreambooth.errors import UserError
from dreambooth.memory.placement import has_room, on_device, on_device_or_cpu
from dreambooth.models.conditioning import GUIDANCE, Conditioning, ImageSize, TextConditioner, concatenate
from dreambooth.models.denoiser import Denoiser
from dreambooth.models.family import Family
from dreambooth.models.latents import LatentCodec
from dreambooth.models.transfer import to_device
from dreambooth.sampling.decoding import decode_images
from dreambooth.types import ProgressCallback


@dataclass(frozen=True)
class SampleRequest:
    """One image to generate. Width and height in pixels, multiples of the family's.

    ``cfg``: the scale of classifier-free guidance; 1 is without. ``guidance``: that of a denoiser that takes it as an
    input; 0 for others.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.5
    width: int = 512
    height: int = 512
    guidance: float = 0.0


_FIXED_BYTES, _BYTES_PER_PIXEL = 500_000_000, 1200

NO_EMBEDDINGS: Mapping[str, Conditioning] = MappingProxyType({})


def for_model(request: SampleRequest, family: Family, scheduler: Mapping[str, Any]) -> SampleRequest:
    """``request`` as the model with this scheduler config can follow it: one distilled for few steps in these, without
    guidance; one with a guidance input with that alone.
    """
    steps, guidance = family.distilled_steps(scheduler), family.embedded_guidance(scheduler)
    if steps or guidance:
        request = dataclasses.replace(request, cfg=1.0, guidance=guidance)
    return dataclasses.replace(request, steps=min(request.steps, steps)) if steps else request


def generate_images(
    modules: Modules,
    requests: Sequence[SampleRequest],
    *,
    sampler: str = "DDIM",
    prompt_encoding: Any = None,
    batch_size: int = 1,
    prompt_embeddings: Mapping[str, Conditioning] = NO_EMBEDDINGS,
    dtype: torch.dtype | None = None,
    progress: ProgressCallback | None = None,
    check: Callable[[], None] | None = None,
) -> Iterator[Image.Image]:
    """Generate the images of ``requests`` in order. An image does not depend on the others in its batch.

    It is computed on the denoiser's device in ``dtype``, by default that of the denoiser's weights; the VAE computes in
    its own, or, where memory is short, in tiles (:mod:`dreambooth.sampling.decoding`).
    ``prompt_encoding``: of the family, see :meth:`Family.prompt_encoding`; None: its defaults.
    ``prompt_embeddings``: embeddings that replace those of the prompts they are given for, one row each. ``check`` is
    called before each sampler step and may raise Cancelled.

    Noise, guidance and sampler steps are those of diffusers' StableDiffusionPipeline with a CPU generator, so that both
    give the same image up to rounding.
    """
    multiple = modules.latent_codec.pixel_multiple
    for request in requests:
        if request.width % multiple or request.height % multiple:
            size = f"{request.width} x {request.height}"
            raise UserError(f"Width and height must be multiples of {multiple}, not {size}.")
    done = 0
    denoiser = modules.family.make_denoiser(modules.denoiser)
    conditioner = modules.text_conditioner(prompt_encoding or modules.family.prompt_encoding())
    batches = list(_batches(conditioner, requests, batch_size))
    autocast = functools.partial(_autocast, modules.denoiser, denoiser.device, dtype or denoiser.dtype)
    with on_device_or_cpu(modules.text_encoders.values(), denoiser.device) as device, torch.no_grad(), autocast():
        conditioning = [_conditioning(denoiser, batch, conditioner, prompt_embeddings, device) for batch in batches]
    for number, batch in enumerate(batches):
        with torch.no_grad():
            with autocast():
                latents = _generate_latents(modules, denoiser, batch, sampler, conditioning[number], check)
            images = decode_images(modules.latent_codec, modules.vae, latents)
        yield from images
        done += len(batch)
        if progress:
            progress(done, len(requests), "images")


def activation_bytes(requests: Sequence[SampleRequest], batch_size: int) -> int:
    """Memory to leave free beside the denoiser's weights, in bytes: generously what SDXL takes in half precision."""
    pixels = max((request.width * request.height for request in requests), default=0)
    return _FIXED_BYTES + _BYTES_PER_PIXEL * pixels * min(batch_size, len(requests))


def _autocast(
    denoiser: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> contextlib.AbstractContextManager[Any]:
    """Without autocast's copies of all trained weights, where memory is short: it casts them in each step then."""
    if dtype == torch.float32:  # torch before 2.5 rejects the device type mps in autocast, even if disabled
        return contextlib.nullcontext()
    copies = sum(p.numel() * dtype.itemsize for p in denoiser.parameters() if p.requires_grad and p.dtype != dtype)
    return torch.autocast(device.type, dtype, cache_enabled=has_room(device, copies))


def _generate_latents(
    modules: Modules,
    denoiser: Denoiser,
    requests: Sequence[SampleRequest],
    sampler: str,
    conditioning: Conditioning,
    check: Callable[[], None] | None,
) -> torch.Tensor:
    """Normalized latents of a batch, (B, C, h, w)."""
    codec, device, first = modules.latent_codec, denoiser.device, requests[0]
    is_guided = first.cfg > 1
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    latents = _initial_noise(first, generators, codec).to(device)
    process = modules.family.process(modules.scheduler_config, device)
    scheduler = process.sampler(sampler, first.steps, process.count_tokens(latents.shape))
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)  # those of flow matching don't scale
    extra_channels = None
    if modules.family.extra_channels(modules.denoiser.config):
        extra_channels = _full_mask_channels(modules, latents)
        extra_channels = torch.cat([extra_channels, extra_channels]) if is_guided else extra_channels
    for t in scheduler.timesteps:
        if check:
            check()
        inputs = scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
        inputs = torch.cat([inputs, inputs]) if is_guided else inputs
        model_output = denoiser.predict(inputs, t, conditioning, extra_channels)
        if is_guided:
            negative, positive = model_output.chunk(2)
            model_output = negative + first.cfg * (positive - negative)
        kwargs = _step_kwargs(scheduler, generators)
        latents = scheduler.step(model_output, t, latents, **kwargs, return_dict=False)[0]
    return latents


def _conditioning(
    denoiser: Denoiser,
    requests: Sequence[SampleRequest],
    conditioner: TextConditioner[Any],
    prompt_embeddings: Mapping[str, Conditioning],
    device: torch.device,
) -> Conditioning:
    """Of all requests; with guidance, the negative prompts come first. ``device``: of the text encoders."""
    n, is_guided = len(requests), requests[0].cfg > 1
    negatives = [request.negative for request in requests] if is_guided else []
    # In one call, so that all have the same length.
    tokens = conditioner.tokenize([request.prompt for request in requests] + negatives)
    tokens = tokens.map(lambda tensor: to_device(tensor, device))
    embedding = conditioner.encode(conditioner.part(tokens, 0, n))
    embedding = _replace_embeddings(embedding, requests, prompt_embeddings, conditioner.unit)
    if is_guided:
        negative = conditioner.encode(conditioner.part(tokens, n, 2 * n))
        embedding = concatenate([conditioner.unconditional(negative, negatives), embedding])
    size = requests[0].width, requests[0].height
    embedding = embedding.to(denoiser.device)
    prepared = denoiser.prepare(embedding, [ImageSize(size, (0, 0), size)] * len(embedding))
    guidance = requests[0].guidance
    if not guidance:
        return prepared
    return prepared.replace(**{GUIDANCE: torch.full((len(prepared),), guidance, device=prepared.device)})


def _replace_embeddings(
    embedding: Conditioning, requests: Sequence[SampleRequest], prompt_embeddings: Mapping[str, Conditioning], unit: str
) -> Conditioning:
    """``embedding`` of the requests' prompts, with the rows of those in ``prompt_embeddings`` replaced."""
    rows = [embedding.select(slice(i, i + 1)) for i in range(len(requests))]
    for i, request in enumerate(requests):
        if replacement := prompt_embeddings.get(request.prompt):
            if replacement.shapes != rows[i].shapes:
                raise UserError(f"The negative prompt has more {unit} than the prompt. Shorten it.")
            dtype = next(iter(embedding.tensors.values())).dtype
            rows[i] = replacement.to(embedding.device, dtype)
    return concatenate(rows)


def _full_mask_channels(modules: Modules, latents: torch.Tensor) -> torch.Tensor:
    """An inpainting model's extra channels for generating the whole image, (B, 1 + C, h, w): mask and gray image."""
    codec, (n, _, height, width) = modules.latent_codec, latents.shape
    gray = torch.zeros(1, 3, height * codec.downscale, width * codec.downscale)
    with on_device([modules.vae], latents.device), without_autocast(latents.device):
        mean, _ = codec.moments(modules.vae, gray)
        gray_latents = codec.normalize(mean.float())
    return torch.cat([torch.ones_like(latents[:, :1]), gray_latents.expand(n, -1, -1, -1)], dim=1)


def _initial_noise(request: SampleRequest, generators: Sequence[torch.Generator], codec: LatentCodec) -> torch.Tensor:
    width, height = codec.size(request.width, request.height)
    shape = (1, codec.channels, height, width)
    return torch.cat([torch.randn(shape, generator=generator) for generator in generators])


def _step_kwargs(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Ancestral samplers add noise in each step: from the image's own generator."""
    parameters = inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if "generator" in parameters else {}


def _batches(
    conditioner: TextConditioner[Any], requests: Sequence[SampleRequest], batch_size: int
) -> Iterator[list[SampleRequest]]:
    """Consecutive requests of one size, number of steps, guidance scales and length of prompts."""

    def key(request: SampleRequest) -> tuple[float, ...]:
        length = max(conditioner.batch_length(prompt) for prompt in (request.prompt, request.negative))
        return request.width, request.height, request.steps, request.cfg, request.guidance, length

    for _, group in itertools.groupby(requests, key):
        members = list(group)
        yield from (members[i : i + batch_size] for i in range(0, len(members), batch_size))
