"""The plan of a run's data: training, class and validation images."""

from __future__ import annotations

from pathlib import Path

from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.dataset.validation_split import with_validation_split
from dreambooth.runs.class_folders import with_folders
from dreambooth.settings import ModelConfig, ModelFolder
from dreambooth.types import DEFAULT_PIXEL_MULTIPLE, ProgressCallback


def plan_of(
    model: ModelFolder | None,
    config: ModelConfig,
    progress: ProgressCallback | None = None,
    metadata_cache: Path | None = None,
) -> Plan:
    """The plan for the files as they are now. UserError with all problems of images and captions.

    ``model``: None where there is none yet; ``metadata_cache``: the file of the image metadata cache, else the model's.
    """
    metadata_cache = metadata_cache or (model.folders.image_metadata_cache if model else None)
    multiple = _pixel_multiple(model) if model else DEFAULT_PIXEL_MULTIPLE
    concepts, settings = with_folders(model, config.concepts), config.settings
    plan = make_plan(concepts, settings, progress, metadata_cache, multiple)
    return with_validation_split(plan, config.concepts, settings, progress, metadata_cache, multiple)


def _pixel_multiple(model: ModelFolder) -> int:
    from dreambooth.checkpoints.modules import load_latent_codec  # with torch, which plans without a model don't need

    return load_latent_codec(model.working).pixel_multiple
