"""What one training run works with, settled before it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.jobs import Controls, Events
from dreambooth.settings import ModelConfig, ModelFolder

if TYPE_CHECKING:
    import torch

    from dreambooth.dataset.plan import Plan
    from dreambooth.memory.planner import MemoryPlan


@dataclass(frozen=True)
class RunContext:
    """One run: made by the preflight and passed whole.

    ``precision``: that of the forward pass ("bf16", "fp16" or "no"). ``resume``: the snapshot to resume from
    ("latest", "best" or a revision); "": a new run. ``memory``: what it was planned to need.
    """

    model: ModelFolder
    config: ModelConfig
    plan: Plan
    device: torch.device
    precision: str
    controls: Controls
    events: Events
    resume: str = ""
    process_group: ProcessGroup = field(default_factory=lambda: SINGLE_PROCESS)
    memory: MemoryPlan | None = None
