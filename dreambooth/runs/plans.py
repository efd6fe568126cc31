"""The plan of a run: what is trained, with which class pictures, and what is only measured on."""

from __future__ import annotations

from collections.abc import Callable

from dreambooth.dataset.held_out import hold_out
from dreambooth.dataset.plan import Plan
from dreambooth.dataset.planning import make_plan
from dreambooth.runs.class_images import with_folders
from dreambooth.settings import ModelConfig, ModelFolder


def plan_of(
    model: ModelFolder | None, config: ModelConfig, progress: Callable[[int, int, str], None] | None = None
) -> Plan:
    """As things lie on disk now; ``model``: None where there is none yet. UserError with all problems of pictures and
    captions.
    """
    plan = make_plan(with_folders(model, config.concepts), config.settings, progress)
    return hold_out(plan, config.concepts, config.settings, progress)
