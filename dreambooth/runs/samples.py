"""Samples of a model, with or without LoRAs, outside of training."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from dreambooth.checkpoints.lora import WeightedLora, apply_lora
from dreambooth.checkpoints.lora_file import LoraFile, read_lora
from dreambooth.checkpoints.lora_tags import has_lora_tags, take_loras
from dreambooth.checkpoints.modules import Modules, load_component, load_family, load_modules, load_scheduler_config
from dreambooth.errors import UserError
from dreambooth.hosts.standalone import best_device
from dreambooth.memory.placement import weights_on_device
from dreambooth.models.conditioning import Conditioning
from dreambooth.sampling.generate import SampleRequest, activation_bytes, for_model, generate_images
from dreambooth.sampling.saving import save_sample
from dreambooth.settings import Folders, ModelFolder, Settings
from dreambooth.training.imagic import load_embeddings
from dreambooth.training.precision import compute_dtype, supported_precisions
from dreambooth.training.results import unused_path
from dreambooth.types import ProgressCallback


def sample(
    model: ModelFolder,
    requests: Sequence[SampleRequest],
    out: Path,
    loras: Sequence[WeightedLora] = (),
    batch_size: int = 1,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Generate images with the weights in ``working`` and LoRAs into the folder ``out``. Returns their files.

    The LoRAs are ``loras``, and for each request those that its prompt names (``<lora:name:0.8>``).
    """
    settings, device = model.require().load().settings, best_device()
    family, scheduler = load_family(model.working), load_scheduler_config(model.working)
    encoding = family.prompt_encoding(settings)
    requests = [for_model(request, family, scheduler) for request in requests]
    groups = list(_by_loras(requests, loras, model.folders))
    files = {use.path: read_lora(use.path) for group in groups for use in group.loras}
    stem, paths = f"{model.name}_{time.strftime('%Y%m%d-%H%M%S')}", []
    for group in groups:
        prompts = [request for _, request in group.requests]
        modules = sampling_modules(model, settings, device, [(files[use.path], use) for use in group.loras])
        with weights_on_device(modules.denoiser, device, activation_bytes(prompts, batch_size)):
            images = generate_images(
                modules,
                prompts,
                sampler=settings.scheduler,
                prompt_encoding=encoding,
                batch_size=batch_size,
                prompt_embeddings=_imagic_embedding(model, settings),
                progress=progress and _from(progress, len(paths), len(requests)),
            )
            for (request, _), image in zip(group.requests, images, strict=True):
                path = unused_path(Path(out) / f"{stem}_{len(paths):03d}_{request.seed}.png")
                paths.append(save_sample(path, image, request, settings.scheduler))
    return paths


class _Group(NamedTuple):
    """Consecutive requests with the same LoRAs: each as given, and with its prompt without their tags."""

    requests: list[tuple[SampleRequest, SampleRequest]]
    loras: tuple[WeightedLora, ...]


def _by_loras(requests: Sequence[SampleRequest], loras: Sequence[WeightedLora], folders: Folders) -> Iterator[_Group]:
    """The requests in order, by ``loras`` and those that their prompts name."""
    taken = []
    take = functools.cache(lambda prompt: take_loras(prompt, folders))  # requests often differ only in their seed
    for request in requests:
        if has_lora_tags(request.negative):
            raise UserError("The negative prompt names a LoRA, which has no effect there: move it to the prompt.")
        prompt, named = take(request.prompt)
        taken.append(((*loras, *named), (request, dataclasses.replace(request, prompt=prompt))))
    for uses, group in itertools.groupby(taken, key=lambda item: item[0]):
        yield _Group([pair for _, pair in group], uses)


def sampling_modules(
    model: ModelFolder, settings: Settings, device: torch.device, loras: Sequence[tuple[LoraFile, WeightedLora]]
) -> Modules:
    """The model's modules with LoRAs applied, on the CPU, in the best precision for ``device``.

    UserError for a LoRA that changes nothing.
    """
    dtype = compute_dtype(supported_precisions(device)[0])
    modules = load_modules(model.working, vae=False, dtype=dtype)
    modules.parts |= load_modules(model.working, denoiser=False, text_encoder=False).parts  # the VAE in float32
    denoiser = modules.family.denoiser
    if settings.use_ema and settings.infer_ema and (model.working / denoiser.ema_name).is_dir():
        modules.parts[denoiser.name] = load_component(model.working, denoiser.ema_name, dtype)
    for file, use in loras:
        if file.no_effect:
            raise UserError(file.no_effect)
        apply_lora(modules, file, use.denoiser, use.text)
    for module in modules.parts.values():
        module.eval()
    return modules


def _from(progress: ProgressCallback, start: int, total: int) -> ProgressCallback:
    """Progress of a group as progress of all images."""
    return lambda done, _total, phase: progress(start + done, total, phase)


def _imagic_embedding(model: ModelFolder, settings: Settings) -> dict[str, Conditioning]:
    """The optimized embedding of Imagic's text, if the model was trained with it."""
    imagic = load_embeddings(model) if settings.train_imagic else None
    return imagic.prompt_embeddings(settings) if imagic else {}
