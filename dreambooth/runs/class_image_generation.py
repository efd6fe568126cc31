"""Class pictures that prior preservation lacks: drawn by the model itself before it learns (arXiv:2208.12242, 3.2).

For each instance picture so many class pictures are wanted, of its shape and with its class prompt. What lies in the
class folder already counts: pictures of a person's own by their shape, drawn ones also by their prompt. Only what is
missing is drawn, and the same pictures whenever that is: a file's name and seed follow from prompt, shape and number.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from dreambooth.captions.metadata_file import caption_of
from dreambooth.captions.reading import build_prompt
from dreambooth.checkpoints.modules import Modules, load_modules, load_vae
from dreambooth.checkpoints.tokens import PromptEncoding
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.sources import require_apart
from dreambooth.dataset.variation import Variation
from dreambooth.errors import UserError
from dreambooth.files import write_text
from dreambooth.images.buckets import Size, fit
from dreambooth.runs.class_folders import folder_of
from dreambooth.sampling.generate import SampleRequest, generate_images
from dreambooth.sampling.saving import save_png
from dreambooth.settings import CONCEPT, Concept, ModelFolder, Settings
from dreambooth.training.context import RunContext
from dreambooth.training.precision import compute_dtype
from dreambooth.memory.release import free_memory

Wanted = tuple[Path, SampleRequest]


def problems_of(model: ModelFolder, concepts: Sequence[Concept]) -> list[str]:
    """Why class images could not be drawn."""
    said = []
    for number, concept in enumerate(concepts):
        if not concept.num_class_images_per:
            continue
        where, key = f"concept {number + 1}: class_prompt", CONCEPT["class_prompt"].label
        if not concept.class_prompt.strip():
            said.append(f"{where} ({key}): class images are wanted without a prompt to draw them from.")
        try:
            require_apart(folder_of(model, number, concept), os.path.expanduser(concept.instance_data_dir.strip()))
        except UserError as error:
            said += [f"Concept {number + 1}, class_data_dir: {problem}" for problem in error.problems]
    return said


def missing(model: ModelFolder, concepts: Sequence[Concept], plan: Plan, settings: Settings) -> list[Wanted]:
    """What is to be drawn for ``plan``, which was made of :func:`with_folders`; pictures of one shape together."""
    if settings.disable_class_matching:
        return []
    wanted = []
    for number, concept in enumerate(concepts):
        if concept.num_class_images_per:
            wanted += _of_concept(folder_of(model, number, concept), number, concept, plan, settings)
    return wanted


def generate_missing(context: RunContext, missing: Sequence[Wanted]) -> None:
    """Generate class images with the weights in ``working``. Each image is on disk as soon as it is generated."""
    settings, controls = context.config.settings, context.controls
    context.events.phase("class images")
    progress = controls.cancellable(context.events.progress)
    progress(0, len(missing), "class images")
    modules = _load(context.model, context.device, compute_dtype(context.precision))
    try:
        pictures = generate_images(
            modules, [request for _, request in missing], sampler=settings.scheduler, prompt_encoding=PromptEncoding.of(settings),
            batch_size=settings.sample_batch_size, check=controls.check,
        )  # fmt: skip
        for done, ((path, request), picture) in enumerate(zip(missing, pictures, strict=True), 1):
            write_text(path.with_suffix(".txt"), request.prompt + "\n")  # first: no picture is ever without its caption
            save_png(path, picture, request, settings.scheduler)
            progress(done, len(missing), "class images")
    finally:
        del modules
        free_memory()


def _load(model: ModelFolder, device: torch.device, dtype: torch.dtype) -> Modules:
    """The VAE in float32: in half precision some overflow."""
    modules = load_modules(model.working, vae=False, dtype=dtype)
    modules.vae = load_vae(model.working)
    for module in (modules.unet, modules.vae, *modules.text_encoders.values()):
        module.to(device).eval()
    return modules


def _of_concept(folder: Path, number: int, concept: Concept, plan: Plan, settings: Settings) -> Iterator[Wanted]:
    asked: Counter[tuple[Size, str]] = Counter()
    for example in plan.examples:
        if example.concept == number:
            prompt = _class_prompt(concept, example.path, settings)
            asked[example.bucket, prompt] += concept.num_class_images_per
    buckets = sorted({bucket for bucket, _ in asked})
    there: Counter[tuple[Size, str]] = Counter()
    own = {e.path: e for e in plan.all_examples() if e.is_class and e.concept == number}
    for example in own.values():
        there[fit(example.original_size, buckets).bucket, example.caption] += 1
    for bucket in buckets:
        prompts = sorted(prompt for size, prompt in asked if size == bucket)
        lacking = sum(asked[bucket, p] for p in prompts) - sum(n for (size, _), n in there.items() if size == bucket)
        for prompt in prompts:
            n = min(max(0, asked[bucket, prompt] - there[bucket, prompt]), max(0, lacking))
            lacking -= n
            yield from _shots(folder, prompt, bucket, n, concept, settings)


def _shots(folder: Path, prompt: str, bucket: Size, n: int, concept: Concept, settings: Settings) -> Iterator[Wanted]:
    """The first ``n`` pictures of a prompt and shape that are not there yet."""
    width, height = bucket
    found = 0
    for number in itertools.count():
        if found == n:
            return
        key = hashlib.sha256(repr((max(0, settings.seed), prompt, bucket, number)).encode()).hexdigest()
        path = folder / f"{key[:16]}.png"
        if path.exists():
            continue
        found += 1
        yield path, SampleRequest(prompt, concept.class_negative_prompt, int(key[:8], 16), concept.class_infer_steps,
                         concept.class_guidance_scale, width, height)  # fmt: skip


def _class_prompt(concept: Concept, picture: Path, settings: Settings) -> str:
    caption = caption_of(picture, concept).text
    prompt = build_prompt(concept.class_prompt, caption, concept.instance_token, concept.class_token, is_class=True)
    return Variation.of(settings, concept).settled([prompt])[0]
