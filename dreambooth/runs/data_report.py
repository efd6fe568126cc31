"""The dataset preview: what a run would train on, image by image and in total. Plain values, nothing is written."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.dataset.plan import Plan
from dreambooth.dataset.table import LEFT_OUT, Row, bucket_counts, other_files, trained
from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.hosts.standalone import best_device
from dreambooth.models.conditioning import TextConditioner
from dreambooth.models.latents import LatentCodec
from dreambooth.models.sd.clip_conditioner import default_embedding_bytes
from dreambooth.models.sd.default_latents import DEFAULT_CODEC
from dreambooth.runs.data_plan import plan_of
from dreambooth.runs.throughput import seconds_per_step
from dreambooth.runs.token_counts import (
    TokenCount,
    conditioner_for_counting,
    count_tokens,
    rows_with_tokens,
    too_long,
)
from dreambooth.settings import Concept, ModelConfig, ModelFolder, Settings
from dreambooth.settings.components import trains_text_encoder
from dreambooth.training.schedules import epochs_trained, run_length, steps_of_epochs
from dreambooth.types import ProgressCallback

_FLOAT = 4  # bytes
_HEADER = 96  # approximate bytes of a cache file besides its tensors


@dataclass(frozen=True)
class DataReport:
    """The data of a run. ``pictures`` and ``other_files``: rows of :mod:`dreambooth.dataset.table`."""

    concepts: tuple[Concept, ...]
    settings: Settings
    totals: dict[str, Any]
    pictures: list[Row]
    other_files: list[Row]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {
            "settings": dataclasses.asdict(self.settings),
            "concepts": [dataclasses.asdict(concept) for concept in self.concepts],
            "totals": self.totals,
            "pictures": self.pictures,
            "other_files": self.other_files,
            "warnings": self.warnings,
        }


def preview_dataset(
    concepts: Sequence[Concept],
    settings: Settings,
    model: ModelFolder | None = None,
    device: Any = None,
    progress: ProgressCallback | None = None,
    metadata_cache: Path | None = None,
    plans_memory: bool = False,
) -> DataReport:
    """Read everything that a run with these concepts and settings would read, and summarize it.

    With a ``model``, tokens are counted by its own tokenizer, memory on ``device`` and time are forecast too, and
    settings that its family can't have are among the warnings. ``metadata_cache``: as for :func:`plan_of`.
    ``plans_memory``: as for :func:`preflight`. UserError with every reason why nothing can be trained.
    """
    if model:
        model.require()
    plan = plan_of(model, ModelConfig("", settings, tuple(concepts)), progress, metadata_cache)
    conditioner = conditioner_for_counting(model, settings)
    counts = count_tokens(conditioner, plan)
    warnings = [*plan.warnings, *too_long(plan, counts, conditioner)]
    pictures, others = rows_with_tokens(plan, counts), other_files(plan)
    totals = totals_of(plan, settings) | {
        "left_out": sum(row["kind"] == LEFT_OUT for row in others),
        "notes": _counted([*pictures, *others]),
        "cache_bytes": cache_bytes(plan, settings, counts, conditioner, model),
    }
    if model:
        warnings += _refused_settings(model, settings)
        totals |= _model_totals(model, plan, concepts, settings, device, totals["steps"], warnings, plans_memory)
    return DataReport(tuple(concepts), settings, totals, pictures, others, warnings)


def totals_of(plan: Plan, settings: Settings) -> dict[str, Any]:
    """The totals of a run."""
    lengths = plan.epoch_lengths(settings.num_train_epochs, settings.train_batch_size)
    steps, per_epoch = run_length(settings, lengths)
    return {
        "pictures": len(plan.examples),
        "class_pictures": len({e.path for e in plan.all_examples() if e.is_class}),
        "validation_pictures": len(plan.validation),
        "showings_per_epoch": sum(example.repeats for example in trained(plan)),
        "steps_per_epoch": per_epoch,
        "epochs": epochs_trained(steps, steps_of_epochs(settings, lengths)),
        "steps": steps,
        "buckets": bucket_counts(plan),
    }


def cache_bytes(
    plan: Plan,
    settings: Settings,
    counts: Mapping[str, TokenCount],
    conditioner: TextConditioner[Any],
    model: ModelFolder | None,
) -> int:
    """Approximate size of cached latents and text embeddings; the latter only if the text encoder is not trained.

    Without a model, sizes are those of Stable Diffusion 1.
    """
    sizes = {example.pixels_key: example.crop.width * example.crop.height for example in plan.images()}
    codec = _latent_codec(model) if model else DEFAULT_CODEC
    moments = 2 * codec.channels * _FLOAT  # mean and standard deviation
    latents = sum(pixels // codec.downscale**2 * moments + _HEADER for pixels in sizes.values())
    if trains_text_encoder(settings):
        return latents
    prompts = {*plan.prompts(), *([""] if conditioner.pads_with_empty_prompt else [])}
    tokens = [min(counts[p].tokens, conditioner.max_tokens) if p in counts else 0 for p in prompts]
    embedding_bytes = _embedding_bytes(model) if model else default_embedding_bytes
    return latents + sum(embedding_bytes(n) + 2 * _HEADER for n in tokens)


def _counted(rows: Sequence[Row]) -> dict[str, int]:
    """Numbers of files by kind of issue; one file may have several rows."""
    noted = {(kind, row["path"]) for row in rows for kind in row["warning_kinds"]}
    return dict(sorted(Counter(kind for kind, _ in noted).items()))


def _latent_codec(model: ModelFolder) -> LatentCodec:
    from dreambooth.checkpoints.modules import load_latent_codec

    return load_latent_codec(model.working)


def _embedding_bytes(model: ModelFolder) -> Callable[[int], int]:
    """Bytes of a cached prompt, by its number of tokens."""
    from dreambooth.checkpoints.modules import load_family

    family = load_family(model.working)
    configs = {part.name: read_json(model.working / part.name / "config.json") for part in family.text_encoders}
    return functools.partial(family.embedding_bytes, configs)


def _refused_settings(model: ModelFolder, settings: Settings) -> list[str]:
    from dreambooth.checkpoints.modules import load_family
    from dreambooth.runs.consistency import refused_settings

    return refused_settings(load_family(model.working), settings)


def _model_totals(
    model: ModelFolder, plan: Plan, concepts: Sequence[Concept], settings: Settings, device: Any, steps: int,
    warnings: list[str], plans_memory: bool,
) -> dict[str, Any]:  # fmt: skip
    """Totals that need a model: memory, time, class images to generate."""
    import torch

    from dreambooth.runs import class_image_generation
    from dreambooth.runs.memory_need import memory_of
    from dreambooth.runs.preflight import size_of
    from dreambooth.training.precision import resolve_precision

    device = device or best_device()
    to_draw = class_image_generation.missing(model, concepts, plan, settings)
    step_seconds = seconds_per_step(model)
    totals = {
        "class_images_to_draw": len(to_draw),
        "seconds_per_step": step_seconds,
        "seconds": None if step_seconds is None else round(step_seconds * steps, 1),
        "device": str(device),
    }
    try:
        precision = resolve_precision(settings, device)
    except UserError as error:
        warnings += error.problems
        return totals
    memory = memory_of(
        model, settings, precision, size_of(model), plan, bool(to_draw), torch.device(device), plans_memory
    )
    return {
        **totals, "precision": precision, "memory_bytes": memory.bytes, "memory_phases": dict(memory.phases),
        "memory_highest": memory.highest, "memory_is_estimate": memory.is_estimate,
    }  # fmt: skip
