"""The look before a run: what it will do, in figures, or all that stands in its way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.modules import family_in, scheduler_in, weights_path
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.tokens import Reading
from dreambooth.dataset.class_images import NO_SUCH_SHAPE
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.table import other_files
from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.errors import UserError
from dreambooth.files import require_free_space
from dreambooth.hosts.standalone import best_device
from dreambooth.runs import class_image_generation, resume_checks
from dreambooth.runs.class_image_generation import Wanted
from dreambooth.runs.consistency import conflicts, likely_mistakes, precision_problems, too_short
from dreambooth.runs.data_plan import plan_of
from dreambooth.runs.token_counts import Read, read_captions, rows, tokenizer_of, too_long
from dreambooth.settings import ModelConfig, ModelFolder, Settings
from dreambooth.training import imagic, init_from_lora
from dreambooth.training.precision import disk_forecast, forecast, resolve_precision
from dreambooth.training.schedules import curve, run_length
from dreambooth.types import ProgressCallback


@dataclass(frozen=True)
class PreflightResult:
    """A run that could start: what it will do, in figures."""

    plan: Plan
    device: torch.device
    precision: str
    steps: int
    steps_per_epoch: int
    learning_rates: dict[str, list[tuple[int, float]]]  # of each part that learns: (step, rate), thinned
    memory_bytes: int
    warnings: tuple[str, ...]
    read: dict[str, Read]  # of each caption, what the text encoder gets
    class_images: tuple[Wanted, ...] = ()  # to be drawn before it learns

    def as_dict(self) -> dict[str, Any]:
        return {
            "pictures": len(self.plan.examples),
            "class_pictures": len({e.path for e in self.plan.all_examples() if e.is_class}),
            "class_images_to_draw": len(self.class_images),
            "steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "learning_rates": self.learning_rates,
            "device": str(self.device),
            "precision": self.precision,
            "memory_gb": round(self.memory_bytes / 1e9, 2),
            "warnings": list(self.warnings),
            "table": rows(self.plan, self.read),
            "other_files": other_files(self.plan),
        }


def preflight(
    model: ModelFolder,
    config: ModelConfig,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    resume: str = "",
) -> PreflightResult:
    """Every reason why a run could not start, or go on from the snapshot ``resume``, in one UserError, before anything
    is loaded.
    """
    settings, problems = (
        config.settings,
        [*process_group.problems(), *class_image_generation.problems_of(model, config.concepts)],
    )
    plan = precision = None
    try:
        plan = plan_of(model, config, progress)
    except UserError as error:
        problems += error.problems
    device = device or best_device()
    try:
        precision = resolve_precision(settings, device)
    except UserError as error:
        problems += error.problems
    problems += [*conflicts(settings, device), *precision_problems(settings, precision, device)]
    if not settings.train_unet and settings.stop_text_encoder == 0:
        problems.append("Nothing would learn: switch on train_unet or raise stop_text_encoder above 0.")
    problems += imagic.problems_of(config, plan)
    problems += [f"{part} is missing: create {model.name} again." for part in _missing_parts(model)]
    steps = per_epoch = 0
    if plan:
        lengths = plan.epoch_lengths(settings.num_train_epochs, settings.train_batch_size)
        steps, per_epoch = run_length(settings, lengths, process_group.size)
        problems += too_short(settings, steps)
    problems += (
        resume_checks.problems_of(model, config, resume) if resume else init_from_lora.problems_of(model, settings)
    )
    if problems or plan is None or precision is None:
        raise UserError.several(problems)
    to_draw = tuple(class_image_generation.missing(model, config.concepts, plan, settings))
    n_unet, n_text = sizes_of(model)
    require_free_space(model.root, disk_forecast(settings, n_unet, n_text), "This run")
    memory = forecast(settings, precision, n_unet, n_text, bool(plan.class_examples or to_draw))
    read = read_captions(tokenizer_of(model), plan, Reading.of(settings, training=True))
    of_plan = [text for text in plan.warnings if not (to_draw and NO_SUCH_SHAPE in text)]
    long = too_long(plan, read, settings.max_token_length)
    of_settings = [*_idle_settings(model, settings), *likely_mistakes(settings)]
    warnings = (*of_plan, *long, *_memory_warnings(device, memory), *of_settings)
    rates = curve(settings, steps)
    return PreflightResult(plan, device, precision, steps, per_epoch, rates, memory, warnings, read, to_draw)


def _idle_settings(model: ModelFolder, settings: Settings) -> list[str]:
    """Settings that have no effect on models of this family."""
    family, said = family_in(model.working), []
    if settings.clip_skip > 1 and not family.clip_skips:
        said.append(f"clip_skip has no effect: {family.title} always reads the layer that it was made with.")
    if settings.zero_terminal_snr:
        scheduler = scheduler_in(model.working)
        if scheduler.get("rescale_betas_zero_snr"):
            said.append("zero_terminal_snr has no effect: this model is trained that way already.")
        elif scheduler.get("prediction_type", "epsilon") != "v_prediction":
            said.append("zero_terminal_snr: this model predicts noise, which in pure noise says nothing of a picture.")
    return said


def _memory_warnings(device: torch.device, needed: int) -> list[str]:
    if device.type != "cuda":
        return []
    there = torch.cuda.get_device_properties(device).total_memory
    if needed < 0.95 * there:
        return []
    return [
        f"Training needs about {needed / 1e9:.1f} GB, the GPU has {there / 1e9:.1f}: train a LoRA, lower the batch "
        "size or the resolution, or switch on gradient checkpointing."
    ]


def _missing_parts(model: ModelFolder) -> list[Path]:
    paths = [weights_path(model.working, part) for part in family_in(model.working).components]
    return [path for path in paths if not path.exists()]


def sizes_of(model: ModelFolder) -> tuple[int, int]:
    """Parameters of the unet, and of the text encoders together."""
    texts = family_in(model.working).text_prefixes
    return _parameters(model, "unet"), sum(_parameters(model, part) for part in texts)


def _parameters(model: ModelFolder, component: str) -> int:
    """From the file's header."""
    with open_tensors(weights_path(model.working, component)) as file:
        return sum(math.prod(file.shape(key)) for key in file)
