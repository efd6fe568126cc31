"""Summaries of runs, and the expected differences between two runs, as predicates."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreambooth.settings import Settings
from tests.training.reference_steps import RecordedStep, check_steps

_FULL = {"unet": "unet.", "te": "text_encoder."}  # a LoRA's are lora_unet_, lora_te_


@dataclass
class RunSummary:
    """The result of a run, without its files."""

    steps: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]  # of the newest LoRA, or of working/
    metadata: dict[str, str]  # of the newest LoRA
    sizes: dict[str, int]  # of all results, by their path in the models folder; without images
    middle: list[float]  # the middle blocks of checkpoints: enough to see whether EMA took their place
    images: list[bytes]
    start: dict[str, torch.Tensor]  # working/ before the run
    settings: Settings
    recorded: list[RecordedStep]
    working: Path  # of the model before the run
    _checked: bool = False

    @property
    def rates(self) -> list[float]:
        return [step["lr"] for step in self.steps]

    @property
    def losses(self) -> list[tuple[float, float]]:
        return [(step["loss"], step["prior_loss"]) for step in self.steps]

    @property
    def loss(self) -> float:
        return sum(loss for loss, _ in self.losses) / len(self.steps)

    def moved(self, part: str) -> float:
        """Distance of the weights from their initial values; LoRA's second matrices start at zero."""
        if any(key.startswith("lora_") for key in self.weights):
            return length(t for k, t in self.weights.items() if k.startswith(f"lora_{part}") and ".lora_up" in k)
        return length(t - self.start[k] for k, t in self.weights.items() if k.startswith(_FULL[part]))

    def check(self) -> bool:
        """Compare each step with the reference computed from the settings; AssertionError if one differs."""
        if not self._checked:
            check_steps(self.recorded, [step["epoch"] for step in self.steps], self.settings, self.working)
            self._checked = True
        return True

    def n_files(self, *parts: str) -> int:
        return sum(all(part in path for part in parts) for path in self.sizes)


def length(parts: Any) -> float:
    """Norm of all tensors together, as one vector."""
    return sum(t.double().square().sum().item() for t in parts) ** 0.5


Consequence = Callable[[RunSummary, RunSummary], bool]

# -- effects of a setting ----------------------------------------------------------------------------------------


def same_weights(a: RunSummary, b: RunSummary) -> bool:
    return a.weights.keys() == b.weights.keys() and all(torch.equal(t, b.weights[k]) for k, t in a.weights.items())


def first_loss_differs(a: RunSummary, b: RunSummary) -> bool:
    """The UNet's input or target differs from the first step on."""
    return a.losses[0] != b.losses[0] and not same_weights(a, b)


def as_written_out(a: RunSummary, b: RunSummary) -> bool:
    """The first losses differ, and all steps of both runs equal the reference: see reference_steps.py."""
    return first_loss_differs(a, b) and a.check() and b.check()


def total_as_written_out(a: RunSummary, b: RunSummary) -> bool:
    """The first losses of instance and class images are equal; the way they are combined differs."""
    return steps_other(a, b) and a.check() and b.check()


def steps_other(a: RunSummary, b: RunSummary) -> bool:
    """The first step has the same input and target, and a different update."""
    return a.losses[0] == b.losses[0] and a.weights.keys() == b.weights.keys() and not same_weights(a, b)


def rounds_other(a: RunSummary, b: RunSummary) -> bool:
    """Equal up to rounding."""
    return not same_weights(a, b) and abs(a.loss - b.loss) < 0.02 * a.loss


def loss_is(word: str) -> Consequence:
    return lambda a, b: as_written_out(a, b) and (b.loss < a.loss) == (word == "less")


def n_steps(before: int, after: int) -> Consequence:
    return lambda a, b: (len(a.steps), len(b.steps)) == (before, after)


def moves(part: str, word: str, *, at_once: bool = True) -> Consequence:
    """The weights of ``part`` move further or less far; with ``at_once`` the first losses are equal."""

    def holds(a: RunSummary, b: RunSummary) -> bool:
        further = b.moved(part) > 1.5 * a.moved(part) if word == "further" else b.moved(part) < a.moved(part) / 1.5
        return further and (not at_once or a.losses[0] == b.losses[0])

    return holds


def shrinks(part: str) -> Consequence:
    def size(summary: RunSummary) -> float:
        return length(t for k, t in summary.weights.items() if k.startswith(_FULL[part]))

    return lambda a, b: steps_other(a, b) and size(b) < size(a)


def rates(holds: Callable[[list[float]], bool]) -> Consequence:
    """The learning rates fulfill ``holds`` with the second value, and not with the first."""
    return lambda a, b: holds(b.rates) and not holds(a.rates)


def falls(lrs: list[float]) -> bool:
    return all(x > y for x, y in itertools.pairwise(lrs))


def keys(part: str, there: str, *, gone: str = "") -> Consequence:
    """Only the second run's file has tensors with this name; ``gone``: tensors that only the first one has."""

    def has(summary: RunSummary, word: str) -> bool:
        return any(k.startswith(part) and word in k for k in summary.weights)

    return lambda a, b: has(b, there) and not has(a, there) and (not gone or (has(a, gone) and not has(b, gone)))


def shapes(part: str, suffix: str, before: Any, after: Any, of: Callable[[torch.Tensor], Any]) -> Consequence:
    """The value of ``of`` for each such tensor."""

    def messages(summary: RunSummary) -> set[Any]:
        return {of(t) for k, t in summary.weights.items() if k.startswith(part) and k.endswith(suffix)}

    return lambda a, b: messages(a) == {before} and messages(b) == {after}


def shortest_sides(summary: RunSummary, suffix: str) -> set[int]:
    return {min(t.shape) for k, t in summary.weights.items() if k.endswith(suffix)}


def rank(t: torch.Tensor) -> Any:
    return t.shape[0]


def conv_rank(t: torch.Tensor) -> Any:
    return t.shape[0] if t.dim() == 4 and t.shape[-1] == 3 else None


def buckets(before: set[tuple[int, int]], after: set[tuple[int, int]]) -> Consequence:
    def messages(summary: RunSummary) -> set[tuple[int, int]]:
        return {tuple(b["resolution"]) for b in json.loads(summary.metadata["ss_bucket_info"])["buckets"].values()}

    return lambda a, b: (messages(a), messages(b)) == (before, after) and first_loss_differs(a, b)


def n_files(before: int, after: int, *parts: str) -> Consequence:
    """Numbers of files with these strings in their path."""
    return lambda a, b: (a.n_files(*parts), b.n_files(*parts)) == (before, after)


def n_images(before: int, after: int) -> Consequence:
    return lambda a, b: (len(a.images), len(b.images)) == (before, after) and same_weights(a, b)


def images_differ(a: RunSummary, b: RunSummary) -> bool:
    """Equal weights, different images."""
    return same_weights(a, b) and len(a.images) == len(b.images) and a.images != b.images


def takes_less(*parts: str) -> Consequence:
    def size(summary: RunSummary) -> int:
        return sum(n for path, n in summary.sizes.items() if all(part in path for part in parts))

    return lambda a, b: 0 < size(b) < size(a) and same_weights(a, b)


def in_bf16(summary: RunSummary) -> bool:
    return all(torch.equal(t, t.bfloat16().float()) for k, t in summary.weights.items() if k.startswith("unet."))


def stand_still(word: str) -> Consequence:
    """Weights with this name are trained with the first value, not with the second; others with both."""

    def moved(summary: RunSummary, those: bool) -> bool:
        part = {k: t for k, t in summary.weights.items() if k.startswith("text_encoder.") and (word in k) == those}
        return any(not torch.equal(t, summary.start[k]) for k, t in part.items())

    return lambda a, b: moved(a, True) and not moved(b, True) and moved(b, False)
