"""Preflight: what a run will do, or every reason why it cannot start. Nothing is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.modules import load_family, load_scheduler_config, weights_path
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.checkpoints.tokens import PromptEncoding
from dreambooth.dataset.class_images import NO_SUCH_SHAPE
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.table import other_files
from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.errors import UserError
from dreambooth.files import require_free_space
from dreambooth.hosts.standalone import best_device
from dreambooth.jobs import Controls, Events
from dreambooth.runs import class_image_generation, resume_checks
from dreambooth.runs.class_image_generation import Wanted
from dreambooth.runs.consistency import conflicts, likely_mistakes, precision_problems, too_short
from dreambooth.runs.data_plan import plan_of
from dreambooth.runs.token_counts import Read, read_captions, rows, tokenizer_of, too_long
from dreambooth.settings import ModelConfig, ModelFolder, Settings
from dreambooth.training import imagic, init_from_lora
from dreambooth.training.context import RunContext
from dreambooth.training.optimizers import NOTHING_TO_TRAIN
from dreambooth.training.precision import resolve_precision
from dreambooth.training.schedules import lr_curves, run_length
from dreambooth.types import ProgressCallback


@dataclass(frozen=True)
class PreflightResult:
    """A run that can start, and its forecast."""

    model: ModelFolder
    config: ModelConfig
    plan: Plan
    device: torch.device
    precision: str
    process_group: ProcessGroup
    resume: str
    steps: int
    steps_per_epoch: int
    learning_rates: dict[str, list[tuple[int, float]]]  # of each trained component: (step, rate), thinned out for a chart
    memory_bytes: int
    warnings: tuple[str, ...]
    read: dict[str, Read]  # of each caption
    class_images: tuple[Wanted, ...] = ()  # generated before training starts

    def context(self, controls: Controls, events: Events) -> RunContext:
        """The run that was checked, as the trainer takes it."""
        return RunContext(
            self.model, self.config, self.plan, self.device, self.precision, controls, events, self.resume,
            self.process_group,
        )  # fmt: skip

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
    """Check a run before anything is loaded: settings, images, captions, weights, disk space.

    ``resume``: the snapshot to resume from; "": a new run. UserError with every reason why the run cannot start.
    """
    settings = config.settings
    problems = [*process_group.problems(), *class_image_generation.problems_of(model, config.concepts)]
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
        problems.append(NOTHING_TO_TRAIN)
    problems += imagic.problems_of(config, plan)
    problems += [f"{part} is missing: create {model.name} again." for part in _missing_parts(model)]
    steps = per_epoch = 0
    if plan:
        lengths = plan.epoch_lengths(settings.num_train_epochs, settings.train_batch_size)
        steps, per_epoch = run_length(settings, lengths, process_group.world_size)
        problems += too_short(settings, steps)
    problems += (
        resume_checks.problems_of(model, config, resume) if resume else init_from_lora.problems_of(model, settings)
    )
    if problems or plan is None or precision is None:
        raise UserError.from_problems(problems)
    to_draw = tuple(class_image_generation.missing(model, config.concepts, plan, settings))
    n_unet, n_text = sizes_of(model)
    require_free_space(model.root, forecast_disk(settings, n_unet, n_text), "This run")
    memory = forecast_memory(settings, precision, n_unet, n_text, bool(plan.class_examples or to_draw))
    read = read_captions(tokenizer_of(model), plan, PromptEncoding.of(settings, training=True))
    of_plan = [text for text in plan.warnings if not (to_draw and NO_SUCH_SHAPE in text)]
    long = too_long(plan, read, settings.max_token_length)
    of_settings = [*_idle_settings(model, settings), *likely_mistakes(settings)]
    warnings = (*of_plan, *long, *_memory_warnings(device, memory), *of_settings)
    rates = lr_curves(settings, steps)
    return PreflightResult(
        model, config, plan, device, precision, process_group, resume, steps, per_epoch, rates, memory, warnings, read,
        to_draw,
    )  # fmt: skip


def _idle_settings(model: ModelFolder, settings: Settings) -> list[str]:
    """Settings that have no effect on models of this family."""
    family, said = load_family(model.working), []
    if settings.clip_skip > 1 and not family.supports_clip_skip:
        said.append(f"clip_skip has no effect: {family.title} always reads the layer that it was made with.")
    if settings.zero_terminal_snr:
        scheduler = load_scheduler_config(model.working)
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
    paths = [weights_path(model.working, part) for part in load_family(model.working).components]
    return [path for path in paths if not path.exists()]


def sizes_of(model: ModelFolder) -> tuple[int, int]:
    """Parameters of the unet, and of the text encoders together."""
    texts = load_family(model.working).text_prefixes
    return _parameters(model, "unet"), sum(_parameters(model, part) for part in texts)


def _parameters(model: ModelFolder, component: str) -> int:
    """From the file's header."""
    with open_tensors(weights_path(model.working, component)) as file:
        return sum(math.prod(file.shape(key)) for key in file)
