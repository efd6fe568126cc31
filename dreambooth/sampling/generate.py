"""Image generation with modules in memory. Nothing is loaded, and the modules are not changed."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from dreambooth.checkpoints.modules import Modules
from dreambooth.errors import UserError
from dreambooth.models.denoiser import Conditioning, UNetDenoiser
from dreambooth.models.sd.keys import INPAINTING_CHANNELS
from dreambooth.models.sd.text_encoding import PromptEmbedding, concatenate_embeddings, encode_prompts
from dreambooth.models.sd.tokens import PromptEncoding, count_chunks, tokenize
from dreambooth.types import VAE_SCALE_FACTOR, ProgressCallback


@dataclass(frozen=True)
class SampleRequest:
    """One image to generate. Width and height in pixels, multiples of 8."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.5
    width: int = 512
    height: int = 512


DEFAULT_ENCODING = PromptEncoding()
NO_EMBEDDINGS: Mapping[str, PromptEmbedding] = MappingProxyType({})


def generate_images(
    modules: Modules,
    requests: Sequence[SampleRequest],
    *,
    sampler: str = "DDIM",
    prompt_encoding: PromptEncoding = DEFAULT_ENCODING,
    batch_size: int = 1,
    prompt_embeddings: Mapping[str, PromptEmbedding] = NO_EMBEDDINGS,
    progress: ProgressCallback | None = None,
    check: Callable[[], None] | None = None,
) -> Iterator[Image.Image]:
    """Generate the images of ``requests`` in order. An image does not depend on the others in its batch.

    ``prompt_embeddings``: embeddings that replace those of the prompts they are given for, one row each. ``check`` is
    called before each sampler step and may raise Cancelled.

    Noise, guidance and sampler steps are those of diffusers' StableDiffusionPipeline with a CPU generator, so that both
    give the same image up to rounding.
    """
    for request in requests:
        if request.width % VAE_SCALE_FACTOR or request.height % VAE_SCALE_FACTOR:
            size = f"{request.width} x {request.height}"
            raise UserError(f"Width and height must be multiples of {VAE_SCALE_FACTOR}, not {size}.")
    done = 0
    for batch in _batches(modules, requests, prompt_encoding, batch_size):
        yield from _generate_batch(modules, batch, sampler, prompt_encoding, prompt_embeddings, check)
        done += len(batch)
        if progress:
            progress(done, len(requests), "images")


@torch.no_grad()
def _generate_batch(
    modules: Modules,
    requests: Sequence[SampleRequest],
    sampler: str,
    prompt_encoding: PromptEncoding,
    prompt_embeddings: Mapping[str, PromptEmbedding],
    check: Callable[[], None] | None,
) -> list[Image.Image]:
    denoiser, vae = UNetDenoiser(modules.denoiser), modules.vae
    device, dtype = modules.denoiser.device, denoiser.dtype
    first = requests[0]
    is_guided = first.cfg > 1
    # torch before 2.5 rejects the device type mps in autocast, even if disabled.
    with torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext():
        conditioning = _conditioning(modules, requests, is_guided, prompt_encoding, prompt_embeddings).to(dtype)
        scheduler = make_scheduler(sampler, modules.scheduler_config)
        scheduler.set_timesteps(first.steps, device=device)
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        channels = vae.config.latent_channels
        latents = _initial_noise(first, generators, channels).to(device) * scheduler.init_noise_sigma
        extra_channels = None
        if modules.denoiser.config.in_channels == INPAINTING_CHANNELS:
            extra_channels = _full_mask_channels(modules, latents)
            extra_channels = torch.cat([extra_channels, extra_channels]) if is_guided else extra_channels
        for t in scheduler.timesteps:
            if check:
                check()
            inputs = scheduler.scale_model_input(latents, t)
            inputs = torch.cat([inputs, inputs]) if is_guided else inputs
            model_output = denoiser.predict(inputs, t, conditioning, extra_channels)
            if is_guided:
                negative, positive = model_output.chunk(2)
                model_output = negative + first.cfg * (positive - negative)
            kwargs = _step_kwargs(scheduler, generators)
            latents = scheduler.step(model_output, t, latents, **kwargs, return_dict=False)[0]
    return [_decode(vae, latent[None] / vae.config.scaling_factor) for latent in latents]


def _conditioning(
    modules: Modules,
    requests: Sequence[SampleRequest],
    is_guided: bool,
    prompt_encoding: PromptEncoding,
    prompt_embeddings: Mapping[str, PromptEmbedding],
) -> Conditioning:
    """Of all requests; with guidance, the negative prompts come first."""
    device, n = modules.denoiser.device, len(requests) * (2 if is_guided else 1)
    texts = [request.prompt for request in requests] + [request.negative for request in requests if is_guided]
    # In one call, so that all have as many chunks.
    tokens = tokenize(list(modules.tokenizers.values()), texts, prompt_encoding)
    tokens = tokens._replace(ids=tokens.ids.to(device))
    embedding = encode_prompts(modules, tokens.part(0, len(requests)), prompt_encoding.clip_skip)
    embedding = _replace_embeddings(embedding, requests, prompt_embeddings)
    if is_guided:
        negative = encode_prompts(modules, tokens.part(len(requests), n), prompt_encoding.clip_skip)
        if modules.family.has_pooled_conditioning:  # SDXL was trained with zeros for an empty prompt
            is_empty = torch.tensor([not request.negative for request in requests], device=device)
            negative = negative.map(lambda part: part.masked_fill(is_empty.view(-1, *[1] * (part.dim() - 1)), 0))
        embedding = concatenate_embeddings([negative, embedding])
    height, width = requests[0].height, requests[0].width
    time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=device).repeat(n, 1)
    return Conditioning(embedding, time_ids)


def _replace_embeddings(
    embedding: PromptEmbedding, requests: Sequence[SampleRequest], prompt_embeddings: Mapping[str, PromptEmbedding]
) -> PromptEmbedding:
    """``embedding`` of the requests' prompts, with the rows of those in ``prompt_embeddings`` replaced."""
    rows = [embedding.map(lambda part, i=i: part[i : i + 1]) for i in range(len(requests))]
    for i, request in enumerate(requests):
        if replacement := prompt_embeddings.get(request.prompt):
            if replacement.states.shape[1] != rows[i].states.shape[1]:
                raise UserError("The negative prompt has more chunks of 75 tokens than the prompt. Shorten it.")
            rows[i] = replacement.to(embedding.states)
    return concatenate_embeddings(rows)


def _full_mask_channels(modules: Modules, latents: torch.Tensor) -> torch.Tensor:
    """An inpainting unet's extra channels for generating the whole image, (B, 5, h, w): mask and gray image."""
    vae, (n, _, height, width) = modules.vae, latents.shape
    size = (height * VAE_SCALE_FACTOR, width * VAE_SCALE_FACTOR)
    gray = torch.zeros(1, 3, *size, device=vae.device, dtype=vae.dtype)
    with torch.autocast(latents.device.type, enabled=False):
        gray_latents = vae.encode(gray).latent_dist.mode().float() * vae.config.scaling_factor
    return torch.cat([torch.ones_like(latents[:, :1]), gray_latents.expand(n, -1, -1, -1)], dim=1)


def make_scheduler(sampler: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by its class name without "Scheduler". ``config``: the model's scheduler_config.json."""
    import diffusers

    values = {key: value for key, value in config.items() if not key.startswith("_")}
    return getattr(diffusers, f"{sampler}Scheduler").from_config(values)


def _initial_noise(request: SampleRequest, generators: Sequence[torch.Generator], channels: int) -> torch.Tensor:
    shape = (1, channels, request.height // VAE_SCALE_FACTOR, request.width // VAE_SCALE_FACTOR)
    return torch.cat([torch.randn(shape, generator=generator) for generator in generators])


def _step_kwargs(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Ancestral samplers add noise in each step: from the image's own generator."""
    parameters = inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if "generator" in parameters else {}


def _decode(vae: Any, latent: torch.Tensor) -> Image.Image:
    pixels = vae.decode(latent.to(vae.dtype), return_dict=False)[0][0].float()
    if not torch.isfinite(pixels).all():
        raise UserError("The image is black (NaN): the VAE overflows in half precision. Use a VAE fixed for fp16.")
    array = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def _batches(
    modules: Modules, requests: Sequence[SampleRequest], prompt_encoding: PromptEncoding, batch_size: int
) -> Iterator[list[SampleRequest]]:
    """Consecutive requests of one size, number of steps, guidance scale and number of prompt chunks."""

    def key(request: SampleRequest) -> tuple[float, ...]:
        prompts = request.prompt, request.negative
        chunks = (count_chunks(next(iter(modules.tokenizers.values())), prompt, prompt_encoding) for prompt in prompts)
        return request.width, request.height, request.steps, request.cfg, max(chunks)

    for _, group in itertools.groupby(requests, key):
        members = list(group)
        yield from (members[i : i + batch_size] for i in range(0, len(members), batch_size))
