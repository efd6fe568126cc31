"""What a run's events add up to: where it stands, its curves, pictures and files. Plain values, no Gradio."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]

MOST_PICTURES = 60
PHASES = {
    "preflight": "Looking at settings and pictures",
    "host": "Waiting for the WebUI to finish what it draws",
    "class images": "Drawing class images",
    "latents": "Encoding pictures",
    "text embeddings": "Encoding captions",
    "unet": "Loading the unet",
    "imagic": "Learning the text's embedding",
    "training": "First step",
    "preview": "Drawing samples",
}
STARTS = {
    "train": "Training",
    "create": "Creating",
    "generate": "Generating a checkpoint of",
    "check": "Checking",
    "extract": "Extracting",
    "resize": "Resizing to",
    "merge": "Merging",
    "class-images": "Drawing class images for",
    "captions": "Captions:",
    "tag": "Tagging",
    "prepare": "Preparing",
    "dry run": "Dry run of preparing",
    "undo": "Undoing the preparation of",
}
ENDS = {"done": "Done.", "cancelled": "Cancelled.", "failed": "It failed; the log says why."}


class Curve:
    """A series of any length in at most ``size`` points: neighbours are averaged as it grows."""

    def __init__(self, size: int = 240) -> None:
        self.size, self.stride = size, 1
        self.points: list[tuple[float, float]] = []
        self._open: list[tuple[float, float]] = []

    def add(self, x: float, y: float) -> None:
        self._open.append((x, y))
        if len(self._open) < self.stride:
            return
        self.points.append(_middle(self._open))
        self._open = []
        if len(self.points) >= 2 * self.size:
            self.points = [_middle(self.points[i : i + 2]) for i in range(0, len(self.points), 2)]
            self.stride *= 2

    def smoothed(self, share: float = 0.1) -> list[tuple[float, float]]:
        """A moving average over about ``share`` of the points, without a bent start (Adam's correction of the bias)."""
        keep = 1 - 1 / max(2.0, share * len(self.points))
        average, weight, smooth = 0.0, 0.0, []
        for x, y in self.points:
            average, weight = keep * average + (1 - keep) * y, keep * weight + 1 - keep
            smooth.append((x, average / weight))
        return smooth


@dataclass(frozen=True)
class Picture:
    path: str
    prompt: str
    seed: int | None
    step: int | None

    @property
    def caption(self) -> str:
        at = "" if self.step is None else f", step {self.step}"
        return f"{self.prompt} (seed {self.seed}{at})"


@dataclass(frozen=True)
class Saved:
    what: str
    path: str
    summary: str


@dataclass
class RunView:
    """Feed it events in their order; read what it adds up to at any time.

    ``state``: "" before anything, "working" until it ended, then "done", "cancelled" or "failed".
    """

    name: str = ""
    what: str = ""
    state: str = ""
    phase: str = ""
    ending: str = ""
    warning: str = ""
    progress: tuple[int, int, str] | None = None
    step: Event = field(default_factory=dict)
    loss: Curve = field(default_factory=Curve)
    prior: Curve = field(default_factory=Curve)
    rate: Curve = field(default_factory=Curve)
    measured: list[tuple[float, float]] = field(default_factory=list)  # validation loss by step
    drift: list[tuple[float, float]] = field(default_factory=list)  # the same of class pictures
    pictures: list[Picture] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    time: float = 0.0  # of the last event, in seconds since 1970
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    def feed_all(self, events: Iterable[Event]) -> RunView:
        for event in events:
            self.feed(event)
        return self

    def feed(self, event: Event) -> None:
        self.time = event.get("time", self.time)
        answer = getattr(self, f"_on_{event.get('kind')}", None)
        if answer:
            answer(event)

    def _on_started(self, event: Event) -> None:
        self.what, self.state, self.phase = str(event.get("what", "")), "working", ""

    def _on_phase(self, event: Event) -> None:
        self.phase, self.progress = str(event.get("name", "")), None

    def _on_progress(self, event: Event) -> None:
        self.progress = event.get("done", 0), event.get("total", 0), str(event.get("phase", ""))

    def _on_step(self, event: Event) -> None:
        self.step, self.phase, self.progress = event, "training", None
        if event.get("seconds"):
            self._seconds.append(event["seconds"])
        for curve, value in ((self.loss, "loss"), (self.prior, "prior_loss"), (self.rate, "lr")):
            if isinstance(event.get(value), (int, float)):
                curve.add(event["step"], event[value])

    def _on_validation(self, event: Event) -> None:
        for points, value in ((self.measured, "loss"), (self.drift, "class_loss")):
            if isinstance(event.get(value), (int, float)):
                points.append((event["step"], event[value]))

    def _on_preview(self, event: Event) -> None:
        path, prompt = str(event.get("path")), str(event.get("prompt", ""))
        self.pictures.insert(0, Picture(path, prompt, event.get("seed"), event.get("step")))

    def _on_saved(self, event: Event) -> None:
        self.saved.append(Saved(str(event.get("what")), str(event.get("path")), str(event.get("summary", ""))))

    def _on_message(self, event: Event) -> None:
        if event.get("level") in ("warning", "error"):
            self.warning = str(event.get("text"))

    def _on_ended(self, event: Event) -> None:
        self.state = str(event.get("state"))
        self.ending = str(event.get("text") or ENDS.get(self.state, self.state))

    def pace(self) -> float | None:
        """Seconds per step lately."""
        return statistics.median(self._seconds) if self._seconds else None

    # -- in words ---------------------------------------------------------------------------------------------

    def share(self) -> float | None:
        """The part done, 0 to 1; None when that is not known."""
        if self.state == "done":
            return 1.0
        done, total = self.progress[:2] if self.progress else (self.step.get("step"), self.step.get("total"))
        return min(1.0, max(0.0, done / total)) if done is not None and total else None

    def line(self, alive: bool = True) -> str:
        """Where it stands, in one line. ``alive``: whether whoever writes the events is still there."""
        if not self.state:
            return ""
        if self.state != "working":
            return self.ending
        if not alive:
            at = f" at step {self.step['step']} of {self.step.get('total')}" if self.step else ""
            return f"A run was interrupted{at}."
        start = f"{STARTS.get(self.what, self.what)} {self.name}".strip()
        if self.progress:
            done, total, phase = self.progress
            return f"{start}: {phase} {done} of {total}" if total else f"{start}: {phase}"
        if self.phase == "training" and self.step:
            return f"{start}: {self._of_step()}"
        return f"{start}: {PHASES.get(self.phase, self.phase)}…" if self.phase else f"{start}…"

    def _of_step(self) -> str:
        step = self.step
        parts = [f"step {step['step']} of {step.get('total')}"]
        if step.get("epochs"):
            parts.append(f"epoch {min(step.get('epoch', 0) + 1, step['epochs'])} of {step['epochs']}")
        pace = self.pace()
        if pace:
            parts += [f"{duration(pace * (step.get('total', 0) - step['step']))} left", f"{pace:.2f} s per step"]
        if step.get("memory"):
            parts.append(f"{step['memory'] / 1e9:.1f} GB")
        return " · ".join(parts)

    def gallery(self) -> list[tuple[str, str]]:
        """(path, caption), newest first; once done, each prompt's first and last picture before all others."""
        there = [picture for picture in self.pictures if Path(picture.path).is_file()]
        pairs = _first_and_last(there) if self.state == "done" else []
        rest = [picture for picture in there if picture not in pairs]
        return [(p.path, p.caption) for p in [*pairs, *rest]][:MOST_PICTURES]


def duration(seconds: float) -> str:
    """A time that is left, as 3:10 or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _first_and_last(pictures: list[Picture]) -> list[Picture]:
    """For each prompt and seed that was drawn more than once: as it began and as it ended."""
    drawn: dict[tuple[str, int | None], list[Picture]] = {}
    for picture in reversed(pictures):
        drawn.setdefault((picture.prompt, picture.seed), []).append(picture)
    return [p for same in drawn.values() if len(same) > 1 for p in (same[0], same[-1])]


def _middle(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
