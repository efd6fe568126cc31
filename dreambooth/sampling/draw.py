"""Pictures from the modules in memory: nothing is loaded, nothing of the modules is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from dreambooth.checkpoints.modules import Modules
from dreambooth.checkpoints.text import encode, tokenize
from dreambooth.errors import UserError


@dataclass(frozen=True)
class Shot:
    """One picture to draw. Sides in pixels, multiples of 8."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.5
    width: int = 512
    height: int = 512


Progress = Callable[[int, int, str], None]


def draw(
    modules: Modules,
    shots: Sequence[Shot],
    *,
    sampler: str = "DDIM",
    clip_skip: int = 1,
    batch_size: int = 1,
    progress: Progress | None = None,
    check: Callable[[], None] | None = None,
) -> Iterator[Image.Image]:
    """Draw ``shots`` in order. A picture depends on its shot alone, not on what is drawn beside it.

    ``check`` is called before each step of the sampler and may raise Cancelled.

    Same noise, guidance and sampler steps as diffusers' StableDiffusionPipeline with a CPU generator, so that
    its pictures and ours are the same to rounding.
    """
    for shot in shots:
        if shot.width % 8 or shot.height % 8:
            raise UserError(f"width and height must be multiples of 8, not {shot.width} x {shot.height}.")
    done = 0
    for group in _alike(shots, batch_size):
        yield from _draw_group(modules, group, sampler, clip_skip, check)
        done += len(group)
        if progress:
            progress(done, len(shots), "pictures")


@torch.no_grad()
def _draw_group(
    modules: Modules, shots: Sequence[Shot], sampler: str, clip_skip: int, check: Callable[[], None] | None
) -> list[Image.Image]:
    unet, vae = modules.unet, modules.vae
    device, dtype = unet.device, next(unet.parameters()).dtype
    first = shots[0]
    guided = first.cfg > 1
    # torch before 2.5 refuses to name autocast on a Mac, even switched off.
    with torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext():
        text = _embed(modules, [shot.prompt for shot in shots], clip_skip, device)
        if guided:
            text = torch.cat([_embed(modules, [shot.negative for shot in shots], clip_skip, device), text])
        text = text.to(dtype)
        scheduler = make_scheduler(sampler, modules.scheduler_config)
        scheduler.set_timesteps(first.steps, device=device)
        generators = [torch.Generator().manual_seed(shot.seed) for shot in shots]
        latents = _starting_noise(first, generators, unet.config.in_channels).to(device) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            if check:
                check()
            doubled = torch.cat([latents, latents]) if guided else latents
            doubled = scheduler.scale_model_input(doubled, t)
            predicted = unet(doubled.to(dtype), t, text, return_dict=False)[0].float()
            if guided:
                without, with_prompt = predicted.chunk(2)
                predicted = without + first.cfg * (with_prompt - without)
            latents = scheduler.step(predicted, t, latents, **_extra(scheduler, generators), return_dict=False)[0]
    return [_decode(vae, latent[None] / vae.config.scaling_factor) for latent in latents]


def make_scheduler(sampler: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler by its name without "Scheduler", for a model with this scheduler_config.json."""
    import diffusers

    kept = {k: v for k, v in config.items() if not k.startswith("_")}
    return getattr(diffusers, f"{sampler}Scheduler").from_config(kept)


def _embed(modules: Modules, prompts: Sequence[str], clip_skip: int, device: torch.device) -> torch.Tensor:
    return encode(modules.text_encoder, tokenize(modules.tokenizer, prompts).to(device), clip_skip)


def _starting_noise(shot: Shot, generators: Sequence[torch.Generator], channels: int) -> torch.Tensor:
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


def _alike(shots: Sequence[Shot], batch_size: int) -> Iterator[list[Shot]]:
    """Neighbours that can be drawn together: same size, steps and guidance."""
    group: list[Shot] = []
    for shot in shots:
        key = (shot.width, shot.height, shot.steps, shot.cfg)
        if group and (
            len(group) == batch_size or key != (group[0].width, group[0].height, group[0].steps, group[0].cfg)
        ):
            yield group
            group = []
        group.append(shot)
    if group:
        yield group
