"""State of a run, accumulated from its events: progress, curves, samples and files. No Gradio."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.text import format_bytes, format_duration

Event = dict[str, Any]

MAX_SAMPLES = 60
PHASES = {
    "preflight": "Checking settings and images",
    "host": "Waiting for the WebUI to finish generating",
    "class images": "Generating class images",
    "latents": "Encoding images",
    "text embeddings": "Encoding captions",
    "unet": "Loading the UNet",
    "transformer": "Loading the transformer",
    "imagic": "Optimizing the text embedding",
    "training": "Running the first step",
    "preview": "Generating samples",
}
# What the status line calls a job, by the kind of its "started" event. The name of the model or file follows.
JOB_TITLES = {
    "train": "Training",
    "create": "Creating",
    "generate": "Generating a checkpoint from",
    "check": "Checking",
    "extract": "Extracting",
    "resize": "Resizing to",
    "merge": "Merging",
    "class-images": "Generating class images for",
    "captions": "Editing captions:",
    "tag": "Captioning",
    "prepare": "Preparing",
    "dry run": "Dry run for",
    "undo": "Undoing preparation of",
}
OUTCOMES = {"done": "Done.", "cancelled": "Canceled.", "failed": "Failed. See the log."}


class Curve:
    """A series of any length in fewer than ``2 * size`` points: neighbors are averaged as it grows."""

    def __init__(self, size: int = 240) -> None:
        self.size, self.stride = size, 1
        self.points: list[tuple[float, float]] = []
        self._pending: list[tuple[float, float]] = []  # fewer than ``stride`` values, not averaged yet

    def add(self, x: float, y: float) -> None:
        self._pending.append((x, y))
        if len(self._pending) < self.stride:
            return
        self.points.append(_mean_point(self._pending))
        self._pending = []
        if len(self.points) >= 2 * self.size:
            self.points = [_mean_point(self.points[i : i + 2]) for i in range(0, len(self.points), 2)]
            self.stride *= 2

    def smoothed(self, fraction: float = 0.1) -> list[tuple[float, float]]:
        """Exponential moving average over about ``fraction`` of the points, with Adam's bias correction."""
        decay = 1 - 1 / max(2.0, fraction * len(self.points))
        average, weight, smooth = 0.0, 0.0, []
        for x, y in self.points:
            average, weight = decay * average + (1 - decay) * y, decay * weight + 1 - decay
            smooth.append((x, average / weight))
        return smooth


@dataclass(frozen=True)
class SampleImage:
    """A sample that the run generated; ``path`` may have been deleted since."""

    path: str
    prompt: str
    seed: int | None
    step: int | None

    @property
    def caption(self) -> str:
        at = "" if self.step is None else f", step {self.step}"
        return f"{self.prompt} (seed {self.seed}{at})"


@dataclass(frozen=True)
class SavedFile:
    """A file that the run wrote. ``kind``: lora, checkpoint, snapshot, model or embedding."""

    kind: str
    path: str
    summary: str

    @property
    def is_automatic(self) -> bool:
        """Whether it is a snapshot that the next one replaces."""
        return self.kind == "snapshot" and self.summary.endswith("automatic")


@dataclass
class RunView:
    """The state of one run or other job. Feed it the events in order; read it at any time.

    ``state``: "" before the first event, "working" until the job has ended, then "done", "cancelled" or "failed".
    """

    name: str = ""
    job: str = ""  # a key of JOB_TITLES
    state: str = ""
    phase: str = ""
    outcome: str = ""  # text of the "ended" event
    warning: str = ""
    progress: tuple[int, int, str] | None = None
    step: Event = field(default_factory=dict)
    loss: Curve = field(default_factory=Curve)
    prior: Curve = field(default_factory=Curve)
    rate: Curve = field(default_factory=Curve)
    validation: list[tuple[float, float]] = field(default_factory=list)  # (step, validation loss)
    class_drift: list[tuple[float, float]] = field(default_factory=list)  # (step, validation loss of class images)
    samples: list[SampleImage] = field(default_factory=list)  # newest first
    saved: list[SavedFile] = field(default_factory=list)
    time: float = 0.0  # of the last event, in seconds since 1970
    _step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    def feed_all(self, events: Iterable[Event]) -> RunView:
        for event in events:
            self.feed(event)
        return self

    def feed(self, event: Event) -> None:
        """Update the state by one event; events of unknown kinds are ignored."""
        self.time = event.get("time", self.time)
        handler = getattr(self, f"_on_{event.get('kind')}", None)
        if handler:
            handler(event)

    def _on_started(self, event: Event) -> None:
        self.job, self.state, self.phase = str(event.get("what", "")), "working", ""

    def _on_phase(self, event: Event) -> None:
        self.phase, self.progress = str(event.get("name", "")), None

    def _on_progress(self, event: Event) -> None:
        self.progress = event.get("done", 0), event.get("total", 0), str(event.get("phase", ""))

    def _on_step(self, event: Event) -> None:
        if not all(isinstance(event.get(key), (int, float)) for key in ("step", "total")):
            return  # damaged
        self.step, self.phase, self.progress = event, "training", None
        if event.get("seconds"):
            self._step_seconds.append(event["seconds"])
        for curve, value in ((self.loss, "loss"), (self.prior, "prior_loss"), (self.rate, "lr")):
            if isinstance(event.get(value), (int, float)):
                curve.add(event["step"], event[value])

    def _on_validation(self, event: Event) -> None:
        for points, value in ((self.validation, "loss"), (self.class_drift, "class_loss")):
            if isinstance(event.get(value), (int, float)):
                points.append((event["step"], event[value]))

    def _on_preview(self, event: Event) -> None:
        path, prompt = str(event.get("path")), str(event.get("prompt", ""))
        self.samples.insert(0, SampleImage(path, prompt, event.get("seed"), event.get("step")))

    def _on_saved(self, event: Event) -> None:
        if event.get("what") == "snapshot":
            self._forget_automatic()
        self.saved.append(SavedFile(str(event.get("what")), str(event.get("path")), str(event.get("summary", ""))))

    def _on_message(self, event: Event) -> None:
        if event.get("level") in ("warning", "error"):
            self.warning = str(event.get("text"))

    def _on_ended(self, event: Event) -> None:
        self.state = str(event.get("state"))
        self.outcome = str(event.get("text") or OUTCOMES.get(self.state, self.state))
        if self.state == "done":
            self._forget_automatic()

    def _forget_automatic(self) -> None:
        """The last automatic snapshot has been deleted."""
        self.saved = [file for file in self.saved if not file.is_automatic]

    def seconds_per_step(self) -> float | None:
        """Median of the last 20 steps; None before the first one."""
        return statistics.median(self._step_seconds) if self._step_seconds else None

    # -- in words ---------------------------------------------------------------------------------------------

    def fraction_done(self) -> float | None:
        """Progress from 0 to 1; None if unknown."""
        if self.state == "done":
            return 1.0
        done, total = self.progress[:2] if self.progress else (self.step.get("step"), self.step.get("total"))
        return min(1.0, max(0.0, done / total)) if done is not None and total else None

    def status_line(self, alive: bool = True) -> str:
        """The state in one line. ``alive``: whether the process that writes the events is still running."""
        if not self.state:
            return ""
        if self.state != "working":
            return self.outcome
        if not alive:
            at = f" at step {self.step['step']} of {self.step.get('total')}" if self.step else ""
            return f"A run was interrupted{at}."
        start = f"{JOB_TITLES.get(self.job, self.job)} {self.name}".strip()
        if self.progress:
            done, total, phase = self.progress
            return f"{start}: {phase} {done} of {total}" if total else f"{start}: {phase}"
        if self.phase == "training" and self.step:
            return f"{start}: {self._step_status()}"
        return f"{start}: {PHASES.get(self.phase, self.phase)}…" if self.phase else f"{start}…"

    def _step_status(self) -> str:
        step = self.step
        parts = [f"step {step['step']} of {step.get('total')}"]
        if step.get("epochs"):
            parts.append(f"epoch {min(step.get('epoch', 0) + 1, step['epochs'])} of {step['epochs']}")
        seconds = self.seconds_per_step()
        if seconds:
            left = format_duration(seconds * (step.get("total", 0) - step["step"]))
            parts += [f"{left} left", f"{seconds:.2f} s per step"]
        if step.get("memory"):
            parts.append(format_bytes(step["memory"]))
        return " · ".join(parts)

    def result(self) -> SavedFile | None:
        """The LoRA or checkpoint that the job saved last; None while it is running or after it failed."""
        if self.state not in ("done", "cancelled"):
            return None
        return next((file for file in reversed(self.saved) if file.kind in ("lora", "checkpoint")), None)

    def gallery(self) -> list[tuple[str, str]]:
        """(path, caption), newest first. After the run, each prompt's first and last sample come before the others."""
        samples = [sample for sample in self.samples if Path(sample.path).is_file()]
        first = _first_and_last(samples) if self.state == "done" else []
        others = [sample for sample in samples if sample not in first]
        return [(sample.path, sample.caption) for sample in [*first, *others]][:MAX_SAMPLES]


def _first_and_last(samples: list[SampleImage]) -> list[SampleImage]:
    """The first and last sample of each prompt and seed that was sampled more than once."""
    series: dict[tuple[str, int | None], list[SampleImage]] = {}
    for sample in reversed(samples):
        series.setdefault((sample.prompt, sample.seed), []).append(sample)
    return [sample for same in series.values() if len(same) > 1 for sample in (same[0], same[-1])]


def _mean_point(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
