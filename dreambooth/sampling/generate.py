"""Pictures from the modules in memory: nothing is loaded, nothing of the modules is changed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from dreambooth.checkpoints.modules import Modules
from dreambooth.checkpoints.stable_diffusion import INPAINTING_CHANNELS
from dreambooth.checkpoints.text_encoding import Embedding, concatenate, conditions, encode
from dreambooth.checkpoints.tokens import Reading, chunks_needed, tokenize
from dreambooth.errors import UserError
from dreambooth.types import ProgressCallback


@dataclass(frozen=True)
class SampleRequest:
    """One picture to draw. Sides in pixels, multiples of 8."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.5
    width: int = 512
    height: int = 512


PLAIN = Reading()
NOTHING: Mapping[str, Embedding] = MappingProxyType({})


def draw(
    modules: Modules,
    shots: Sequence[SampleRequest],
    *,
    sampler: str = "DDIM",
    reading: Reading = PLAIN,
    batch_size: int = 1,
    known: Mapping[str, Embedding] = NOTHING,
    progress: ProgressCallback | None = None,
    check: Callable[[], None] | None = None,
) -> Iterator[Image.Image]:
    """Draw ``shots`` in order. A picture depends on its shot alone, not on what is drawn beside it.

    ``known``: prompts that stand for these embeddings, one row each. ``check`` is called before each step of the
    sampler and may raise Cancelled.

    Same noise, guidance and sampler steps as diffusers' StableDiffusionPipeline with a CPU generator, so that
    its pictures and ours are the same to rounding.
    """
    for shot in shots:
        if shot.width % 8 or shot.height % 8:
            raise UserError(f"width and height must be multiples of 8, not {shot.width} x {shot.height}.")
    done = 0
    for group in _alike(modules, shots, reading, batch_size):
        yield from _draw_group(modules, group, sampler, reading, known, check)
        done += len(group)
        if progress:
            progress(done, len(shots), "pictures")


@torch.no_grad()
def _draw_group(
    modules: Modules, shots: Sequence[SampleRequest], sampler: str, reading: Reading, known: Mapping[str, Embedding],
    check: Callable[[], None] | None,
) -> list[Image.Image]:  # fmt: skip
    unet, vae = modules.unet, modules.vae
    device, dtype = unet.device, next(unet.parameters()).dtype
    first = shots[0]
    guided = first.cfg > 1
    # torch before 2.5 refuses to name autocast on a Mac, even switched off.
    with torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext():
        told = _told(modules, shots, guided, reading, known, dtype)
        scheduler = make_scheduler(sampler, modules.scheduler_config)
        scheduler.set_timesteps(first.steps, device=device)
        generators = [torch.Generator().manual_seed(shot.seed) for shot in shots]
        channels = vae.config.latent_channels
        latents = _starting_noise(first, generators, channels).to(device) * scheduler.init_noise_sigma
        beside = _all_masked(modules, latents) if unet.config.in_channels == INPAINTING_CHANNELS else None
        for t in scheduler.timesteps:
            if check:
                check()
            seen = scheduler.scale_model_input(latents, t)
            seen = seen if beside is None else torch.cat([seen, beside], dim=1)
            doubled = torch.cat([seen, seen]) if guided else seen
            predicted = unet(doubled.to(dtype), t, **told)[0].float()
            if guided:
                without, with_prompt = predicted.chunk(2)
                predicted = without + first.cfg * (with_prompt - without)
            latents = scheduler.step(predicted, t, latents, **_extra(scheduler, generators), return_dict=False)[0]
    return [_decode(vae, latent[None] / vae.config.scaling_factor) for latent in latents]


def _told(
    modules: Modules, shots: Sequence[SampleRequest], guided: bool, reading: Reading, known: Mapping[str, Embedding],
    dtype: torch.dtype,
) -> dict[str, Any]:  # fmt: skip
    """The unet's arguments beside latents and timestep; for guidance those of the negative prompts come first."""
    device, n = modules.unet.device, len(shots) * (2 if guided else 1)
    texts = [shot.prompt for shot in shots] + [shot.negative for shot in shots if guided]
    tokens = tokenize(modules.tokenizers, texts, reading)  # together, so that all have as many chunks
    tokens = tokens._replace(ids=tokens.ids.to(device))
    embedding = _with_known(encode(modules, tokens.part(0, len(shots)), reading.clip_skip), shots, known)
    if guided:
        negative = encode(modules, tokens.part(len(shots), n), reading.clip_skip)
        if modules.family.pooled:  # SDXL was trained with nothing in place of an empty prompt
            silent = torch.tensor([not shot.negative for shot in shots], device=device)
            negative = negative.map(lambda part: part.masked_fill(silent.view(-1, *[1] * (part.dim() - 1)), 0))
        embedding = concatenate([negative, embedding])
    height, width = shots[0].height, shots[0].width
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=device).repeat(n, 1)
    return conditions(embedding, sizes, dtype)


def _with_known(embedding: Embedding, shots: Sequence[SampleRequest], known: Mapping[str, Embedding]) -> Embedding:
    """The prompts' embeddings, with those that are known in their places."""
    rows = [embedding.map(lambda part, i=i: part[i : i + 1]) for i in range(len(shots))]
    for i, shot in enumerate(shots):
        if own := known.get(shot.prompt):
            if own.states.shape[1] != rows[i].states.shape[1]:
                raise UserError("The negative prompt takes more chunks of 75 tokens than the text: shorten it.")
            rows[i] = own.to(embedding.states)
    return concatenate(rows)


def _all_masked(modules: Modules, latents: torch.Tensor) -> torch.Tensor:
    """What an inpainting unet sees beside the latents when all of the picture is to be painted, (B, 5, h, w)."""
    vae, (n, _, height, width) = modules.vae, latents.shape
    grey = torch.zeros(1, 3, height * 8, width * 8, device=vae.device, dtype=vae.dtype)
    with torch.autocast(latents.device.type, enabled=False):
        empty = vae.encode(grey).latent_dist.mode().float() * vae.config.scaling_factor
    return torch.cat([torch.ones_like(latents[:, :1]), empty.expand(n, -1, -1, -1)], dim=1)


def make_scheduler(sampler: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by its name without "Scheduler", for a model with this scheduler_config.json."""
    import diffusers

    kept = {k: v for k, v in config.items() if not k.startswith("_")}
    return getattr(diffusers, f"{sampler}Scheduler").from_config(kept)


def _starting_noise(shot: SampleRequest, generators: Sequence[torch.Generator], channels: int) -> torch.Tensor:
    shape = (1, channels, shot.height // 8, shot.width // 8)
    return torch.cat([torch.randn(shape, generator=generator) for generator in generators])


def _extra(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """Ancestral samplers draw noise as they go: from the picture's own generator."""
    import inspect

    takes = inspect.signature(scheduler.step).parameters
    return {"generator": list(generators)} if "generator" in takes else {}


def _decode(vae: Any, latent: torch.Tensor) -> Image.Image:
    pixels = vae.decode(latent.to(vae.dtype), return_dict=False)[0][0].float()
    if not torch.isfinite(pixels).all():
        raise UserError("The picture came out black (not a number): the VAE overflows in half precision.")
    array = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array)


def _alike(
    modules: Modules, shots: Sequence[SampleRequest], reading: Reading, batch_size: int
) -> Iterator[list[SampleRequest]]:
    """Neighbours that can be drawn together: same size, steps, guidance and chunks of the prompts."""

    def kind(shot: SampleRequest) -> tuple[float, ...]:
        chunks = (chunks_needed(modules.tokenizers[0], text, reading) for text in (shot.prompt, shot.negative))
        return shot.width, shot.height, shot.steps, shot.cfg, max(chunks)

    for _, alike in itertools.groupby(shots, kind):
        members = list(alike)
        yield from (members[i : i + batch_size] for i in range(0, len(members), batch_size))
