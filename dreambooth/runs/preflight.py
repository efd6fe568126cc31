"""Preflight: what a run will do, or every reason why it cannot start. Nothing is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from dreambooth.checkpoints.modules import (
    load_family,
    load_latent_codec,
    load_scheduler_config,
    open_component,
    weights_problem,
)
from dreambooth.dataset.class_images import NO_MATCHING_SHAPE
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.table import other_files
from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.errors import UserError
from dreambooth.hosts.standalone import best_device
from dreambooth.jobs import Controls, Events
from dreambooth.memory.forecast import ModelSize, forecast_snapshot
from dreambooth.memory.planner import MemoryPlan
from dreambooth.models.family import Family
from dreambooth.models.libraries import library_problem
from dreambooth.runs import class_image_generation, preview_model, resume_checks
from dreambooth.runs.class_image_generation import MissingImage
from dreambooth.runs.consistency import (
    conflicts,
    fused_backward_problems,
    likely_mistakes,
    offload_problems,
    precision_problems,
    prompts_with_loras,
    refused_settings,
    sampler_problems,
    too_short,
)
from dreambooth.runs.data_plan import plan_of
from dreambooth.runs.memory_need import gpu_memory, memory_of, memory_warnings
from dreambooth.runs.outputs import Output, planned_outputs, space_problems, writing_problems
from dreambooth.runs.timestep_distribution import timestep_shares
from dreambooth.runs.token_counts import (
    TokenCount,
    conditioner_for_counting,
    count_tokens,
    rows_with_tokens,
    too_long,
)
from dreambooth.settings import SETTINGS, ModelConfig, ModelFolder, Settings
from dreambooth.settings.components import TrainedRole
from dreambooth.training import adapter_ranks, imagic, init_from_lora, lora_spelling, training_adapter
from dreambooth.training.compiled_blocks import unavailable_reason as compile_reason
from dreambooth.training.context import RunContext
from dreambooth.training.cuda_graphs import unavailable_reason as graphs_reason
from dreambooth.training.noise import training_scheduler_config
from dreambooth.training.optimizers import NOTHING_TO_TRAIN
from dreambooth.training.precision import kernel_problems, resolve_precision
from dreambooth.training.schedules import lr_curves, run_length
from dreambooth.training.snapshot_list import list_snapshots
from dreambooth.types import ProgressCallback


@dataclass(frozen=True)
class PreflightResult:
    """A run that can start, and its forecast."""

    model: ModelFolder
    config: ModelConfig
    family: Family
    plan: Plan
    device: torch.device
    precision: str
    process_group: ProcessGroup
    resume: str
    steps: int
    steps_per_epoch: int
    learning_rates: dict[TrainedRole, list[tuple[int, float]]]  # (step, rate), thinned out for a chart
    timestep_shares: list[float]  # of the training timesteps in equal parts of the process, from the image to noise
    memory: MemoryPlan
    snapshot_bytes: int  # on disk
    warnings: tuple[str, ...]
    token_counts: dict[str, TokenCount]  # of each caption
    class_images: tuple[MissingImage, ...] = ()  # generated before training starts

    def context(self, controls: Controls, events: Events) -> RunContext:
        """The run that was checked, as the trainer takes it."""
        return RunContext(
            self.model, self.config, self.plan, self.device, self.precision, controls, events, self.resume,
            self.process_group, self.memory,
        )  # fmt: skip

    def role_titles(self) -> dict[TrainedRole, str]:
        """What users call the components with each role."""
        return {"denoiser": self.family.denoiser.title, "text_encoder": "text encoder"}

    def as_dict(self) -> dict[str, Any]:
        recognized, names = self.config.info.recognized, {"denoiser": self.family.denoiser.name}
        return {
            **({"model": recognized} if recognized else {}),
            "pictures": len(self.plan.examples),
            "class_pictures": len({e.path for e in self.plan.all_examples() if e.is_class}),
            "class_images_to_draw": len(self.class_images),
            "steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "learning_rates": {names.get(role, role): curve for role, curve in self.learning_rates.items()},
            "timestep_shares": [round(share, 4) for share in self.timestep_shares],
            "device": str(self.device),
            "precision": self.precision,
            "memory_gb": round(self.memory.bytes / 1e9, 2),
            "memory_phases": dict(self.memory.phases),
            "memory_highest": self.memory.highest,
            "memory_is_estimate": self.memory.is_estimate,
            "snapshot_bytes": self.snapshot_bytes,
            "warnings": list(self.warnings),
            "table": rows_with_tokens(self.plan, self.token_counts),
            "other_files": other_files(self.plan),
        }


def preflight(
    model: ModelFolder,
    config: ModelConfig,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    resume: str = "",
    plans_memory: bool = False,
) -> PreflightResult:
    """Check a run before anything is loaded: settings, images, captions, weights, disk space.

    ``resume``: the snapshot to resume from; "": a new run. ``plans_memory``: on a GPU, plan it now
    if it was not planned before, which takes seconds; otherwise it is estimated then. UserError with every reason why
    the run cannot start.
    """
    settings, device, family = config.settings, device or best_device(), load_family(model.working)
    problems = [*process_group.problems(), *class_image_generation.problems_of(model, config.concepts)]
    plan = precision = None
    try:
        plan = plan_of(model, config, progress)
    except UserError as error:
        problems += error.problems
    try:
        precision = resolve_precision(settings, device)
    except UserError as error:
        problems += error.problems
    steps, per_epoch = _run_length(plan, settings, process_group) if plan else (0, 0)
    problems += [
        *kernel_problems(device),
        *conflicts(settings, device),
        *refused_settings(family, settings),
        *_library_problems(model, family, settings),
        *precision_problems(settings, precision, device),
        *fused_backward_problems(settings, precision, process_group.world_size),
        *offload_problems(settings, device),
        *([] if settings.train_unet or settings.stop_text_encoder else [NOTHING_TO_TRAIN]),
        *imagic.problems_of(config, plan),
        *adapter_ranks.problems_of(model, settings),
        *lora_spelling.problems_of(model, settings),
        *training_adapter.problems_of(model, config.settings),
        *preview_model.problems_of(model, config.settings),
        *_weights_problems(model, family),
        *(too_short(settings, steps) if plan else []),
        *_starting_problems(model, config, resume),
        *writing_problems(model, config, steps),
    ]
    if problems or plan is None or precision is None:
        raise UserError.from_problems(problems)
    missing = tuple(class_image_generation.missing(model, config.concepts, plan, settings))
    size = size_of(model)
    if problems := space_problems(planned_outputs(model, config, size, steps, per_epoch, missing)):
        raise UserError.from_problems(problems)
    memory = memory_of(model, settings, precision, size, plan, bool(missing), device, plans_memory)
    conditioner = conditioner_for_counting(model, settings)
    token_counts = count_tokens(conditioner, plan)
    warnings = (
        *(text for text in plan.warnings if not (missing and NO_MATCHING_SHAPE in text)),
        *too_long(plan, token_counts, conditioner),
        *config.info.source_warnings.splitlines(),
        *memory_warnings(memory, gpu_memory(device)),
        *_settings_without_effect(model, family, settings, device),
        *likely_mistakes(settings),
        *prompts_with_loras(settings, config.concepts),
        *(list_snapshots(model).warnings() if resume else ()),
    )
    return PreflightResult(
        model, config, family, plan, device, precision, process_group, resume, steps, per_epoch,
        lr_curves(settings, steps), _timestep_shares(model, family, plan, settings), memory,
        forecast_snapshot(settings, size), warnings, token_counts, missing,
    )  # fmt: skip


def _timestep_shares(model: ModelFolder, family: Family, plan: Plan, settings: Settings) -> list[float]:
    process = family.process(training_scheduler_config(load_scheduler_config(model.working), False))
    return timestep_shares(process, load_latent_codec(model.working), plan, settings)


def outputs_of(result: PreflightResult) -> list[Output]:
    """What the run writes until its end."""
    size = size_of(result.model)
    return planned_outputs(result.model, result.config, size, result.steps, result.steps_per_epoch, result.class_images)


def _run_length(plan: Plan, settings: Settings, process_group: ProcessGroup) -> tuple[int, int]:
    """Optimizer steps of the run and of its first epoch."""
    lengths = plan.epoch_lengths(settings.num_train_epochs, settings.train_batch_size)
    return run_length(settings, lengths, process_group.world_size)


def _starting_problems(model: ModelFolder, config: ModelConfig, resume: str) -> list[str]:
    """Problems with the weights that the run starts from: those of a snapshot, or of a LoRA."""
    if resume:
        return resume_checks.problems_of(model, config, resume)
    return init_from_lora.problems_of(model, config.settings)


def _library_problems(model: ModelFolder, family: Family, settings: Settings) -> list[str]:
    """Libraries that are missing or too old, for the family or for the sampler of its previews."""
    if problem := library_problem(family):
        return [problem]
    if family.capabilities.refuses("scheduler", settings.scheduler):
        return []  # reported as such
    return sampler_problems(settings.scheduler, family.process(load_scheduler_config(model.working)).samplers)


def _settings_without_effect(model: ModelFolder, family: Family, settings: Settings, device: torch.device) -> list[str]:
    """Settings that have no effect on this model or device."""
    warnings = [
        f"{key} has no effect: {family.title} {reason}."
        for key, reason in family.capabilities.without_effect.items()
        if getattr(settings, key) != SETTINGS[key].default
    ]
    for key, unavailable_reason in (("torch_compile", compile_reason), ("cuda_graphs", graphs_reason)):
        if getattr(settings, key) and (why := unavailable_reason(settings, device)):
            warnings.append(f"{key} has no effect: {why}.")
    if settings.zero_terminal_snr:
        scheduler = load_scheduler_config(model.working)
        if scheduler.get("rescale_betas_zero_snr"):
            warnings.append("zero_terminal_snr has no effect: this model already has a zero-terminal-SNR schedule.")
        elif scheduler.get("prediction_type", "epsilon") != "v_prediction":
            warnings.append(
                "zero_terminal_snr needs v-prediction; this model predicts noise (epsilon), which is undefined at "
                "zero SNR."
            )
    return warnings


def _weights_problems(model: ModelFolder, family: Family) -> list[str]:
    """Components whose weights are missing, or whose files have changed since they are read in place."""
    problems = [weights_problem(model.working, name) for name in family.component_names]
    return [problem for problem in problems if problem]


def size_of(model: ModelFolder) -> ModelSize:
    """The numbers of parameters, from the headers of the weight files."""
    family = load_family(model.working)
    denoiser = _parameters(model, family.denoiser.name)
    text_encoders = sum(_parameters(model, component.name) for component in family.text_encoders)
    return ModelSize(denoiser, text_encoders, family.size_estimate(denoiser))


def _parameters(model: ModelFolder, component: str) -> int:
    with open_component(model.working, component) as file:
        return sum(math.prod(file.shape(key)) for key in file)
