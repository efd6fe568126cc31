"""A run on the fake GPU: its memory by phase, and the launches, synchronizations and copies of one step."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth.memory.allocations import Peak
from dreambooth.memory.virtual_cuda import DEVICE, GpuModel
from dreambooth.runs import memory_trace
from dreambooth.runs.memory_plan import Scenario
from dreambooth.runs.memory_trace import STEP_PHASES
from dreambooth.settings import ModelFolder, parse
from dreambooth.settings.run import Settings
from dreambooth.training.precision import resolve_precision
from tools.virtual_gpu.device_log import DeviceLog
from tools.virtual_gpu.fake_gpu import fake_gpu


@dataclass(frozen=True)
class Trace:
    """``peaks`` by the phases of :data:`memory_trace.PHASES`, those that the run has; the rest is of one step."""

    peaks: Mapping[str, Peak]
    launches: int
    syncs: Mapping[str, int]
    copies: Mapping[str, int]

    @property
    def step(self) -> Peak:
        """The highest of a step."""
        return max((self.peaks[phase] for phase in STEP_PHASES if phase in self.peaks), key=lambda peak: peak.bytes)


def trace(
    model: ModelFolder,
    overrides: Mapping[str, Any],
    *,
    class_images: bool = False,
    generates: bool = False,
    preview: bool = True,
    gpu_model: GpuModel = GpuModel(),  # noqa: B008 (frozen)
) -> Trace:
    """Trace a run of a model with these settings over the defaults of the model; images are square."""
    settings = parse(Settings, overrides, base=model.load().settings)
    with fake_gpu(gpu_model) as gpu:
        size = settings.resolution, settings.resolution
        precision = resolve_precision(settings, DEVICE)
        scenario = Scenario(precision, size, class_images, generates, preview=preview)

        @contextlib.contextmanager
        def step() -> Iterator[None]:
            gpu.log.clear()
            yield
            observed.append(_observed(gpu.log))

        observed: list[tuple[int, dict[str, int], dict[str, int]]] = []
        peaks = memory_trace.trace(gpu, model, settings, scenario, step)
    return Trace(peaks, *observed[0])


def _observed(log: DeviceLog) -> tuple[int, dict[str, int], dict[str, int]]:
    """Launches, synchronizations and copies."""
    syncs, copies = Counter[str](), Counter[str]()
    for place, n in log.syncs.items():
        syncs[place.name] += n
    for (kind, place), n in log.copies.items():
        copies[f"{kind} {place.name}"] += n
    return sum(log.launches.values()), dict(syncs), dict(copies)
