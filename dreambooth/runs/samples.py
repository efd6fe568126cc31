"""Samples of a model, with or without LoRAs, outside of training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from dreambooth.checkpoints.lora import WeightedLora, apply_lora, read_lora
from dreambooth.checkpoints.modules import load_modules, load_unet
from dreambooth.checkpoints.text_encoding import PromptEmbedding
from dreambooth.checkpoints.tokens import PromptEncoding
from dreambooth.hosts.standalone import best_device
from dreambooth.sampling.generate import SampleRequest, generate_images
from dreambooth.sampling.saving import save_sample
from dreambooth.settings import ModelFolder, Settings
from dreambooth.training.imagic import load_embeddings
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
    """Generate images with the weights in ``working`` and ``loras`` into the folder ``out``. Returns their files."""
    config = model.require().load()
    settings = config.settings
    adapters = [(read_lora(use.path), use) for use in loras]
    modules = load_modules(model.working)
    if settings.use_ema and settings.infer_ema and (model.working / "ema_unet").is_dir():
        modules.unet = load_unet(model.working, name="ema_unet")
    for adapter, use in adapters:
        apply_lora(modules, adapter, use.unet, use.text)
    for module in (modules.unet, modules.vae, *modules.text_encoders.values()):
        module.to(best_device()).eval()
    images = generate_images(
        modules,
        requests,
        sampler=settings.scheduler,
        prompt_encoding=PromptEncoding.of(settings),
        batch_size=batch_size,
        prompt_embeddings=_imagic_embedding(model, settings),
        progress=progress,
    )
    stem = f"{model.name}_{time.strftime('%Y%m%d-%H%M%S')}"
    return [
        save_sample(unused_path(Path(out) / f"{stem}_{n:03d}_{request.seed}.png"), image, request, settings.scheduler)
        for n, (request, image) in enumerate(zip(requests, images, strict=True))
    ]


def _imagic_embedding(model: ModelFolder, settings: Settings) -> dict[str, PromptEmbedding]:
    """The optimized embedding of Imagic's text, if the model was trained with it."""
    imagic = load_embeddings(model) if settings.train_imagic else None
    return imagic.prompt_embeddings(settings) if imagic else {}
