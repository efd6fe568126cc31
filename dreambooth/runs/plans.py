"""The plan of a run: what is trained, with which class pictures, and what is only measured on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dreambooth.dataset.held_out import hold_out
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.runs.class_folders import with_folders
from dreambooth.settings import ModelConfig, ModelFolder


def plan_of(
    model: ModelFolder | None,
    config: ModelConfig,
    progress: Callable[[int, int, str], None] | None = None,
    known: Path | None = None,
) -> Plan:
    """As things lie on disk now. UserError with all problems of pictures and captions.

    ``model``: None where there is none yet; ``known``: the file that keeps what was read of pictures, else the model's.
    """
    known = known or (model.folders.known_pictures if model else None)
    plan = make_plan(with_folders(model, config.concepts), config.settings, progress, known)
    return hold_out(plan, config.concepts, config.settings, progress, known)
