"""The memory that a run needs, phase by phase, and where plans are kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json, write_json
from dreambooth.text import format_bytes

# Bytes that a card needs besides what torch allocates for tensors: CUDA's context, workspaces, fragments.
OVERHEAD = 800_000_000
TITLES = {
    "class images": "generating class images", "latents": "encoding latents", "text embeddings": "encoding prompts",
    "loading": "loading", "forward": "the forward pass", "backward": "the backward pass",
    "optimizer": "the optimizer step", "EMA": "the EMA update", "sampling": "sampling a preview",
    "decoding": "decoding a preview", "saving": "saving", "training": "training",
}  # fmt: skip
_LARGEST_FILE = 64  # plans


@dataclass(frozen=True)
class MemoryPlan:
    """``phases``: peak bytes of tensors by phase, in the order of the run. ``is_estimate``: from a formula, which
    knows the phase "training" alone.
    """

    phases: Mapping[str, int]
    is_estimate: bool = False

    @property
    def highest(self) -> str:
        """The phase that needs the most."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def bytes(self) -> int:
        """The most that tensors take."""
        return self.phases[self.highest]

    @property
    def needed(self) -> int:
        """Bytes that must be free on the card."""
        return self.bytes + OVERHEAD

    def summary(self) -> str:
        """What is needed and when, for users."""
        if self.is_estimate:
            return f"about {format_bytes(self.bytes)} (an estimate, without previews)"
        return f"{format_bytes(self.bytes)}, the most in {self.phase_title()}"

    def phase_title(self) -> str:
        """The highest phase, for users."""
        return TITLES.get(self.highest, self.highest)


class PlanCache:
    """Plans by their key, in memory and in a file. A file that can't be read or written is ignored."""

    def __init__(self) -> None:
        self._plans: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def get(self, path: Path, key: str) -> MemoryPlan | None:
        with self._lock:
            if key not in self._plans:
                self._plans |= _read(path)
            phases = self._plans.get(key)
        return MemoryPlan(phases) if phases else None

    def put(self, path: Path, key: str, plan: MemoryPlan) -> None:
        with self._lock:
            self._plans[key] = dict(plan.phases)
            kept = {**_read(path), key: dict(plan.phases)}
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, dict(list(kept.items())[-_LARGEST_FILE:]))
            except (OSError, UserError):
                pass  # read-only, or full: it is planned again


def _read(path: Path) -> dict[str, dict[str, int]]:
    try:
        plans: Any = read_json(path)
    except UserError:
        return {}
    if not isinstance(plans, dict):
        return {}
    return {key: phases for key, phases in plans.items() if _is_valid(phases)}


def _is_valid(phases: Any) -> bool:
    return isinstance(phases, dict) and bool(phases) and all(isinstance(n, int) for n in phases.values())
