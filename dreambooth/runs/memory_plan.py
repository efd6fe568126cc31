"""Plans the memory of a run: its own step is traced on tensors without values, in a process of its own.

The process sees no GPU and shares nothing with a WebUI that is generating. Plans are kept by what they depend on, so
that only the first of a kind takes seconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.files import read_json
from dreambooth.memory.planner import MemoryPlan, PlanCache
from dreambooth.settings import Folders, ModelFolder, Settings, parse

if TYPE_CHECKING:
    from dreambooth.memory.allocations import Peak

log = logging.getLogger("dreambooth.memory")

_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT = 600  # seconds
_VERSION = 3  # of the plans; raise it when they change for other reasons than libraries and settings
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")
# Settings that change no sizes, by parts of their keys.
_WITHOUT_EFFECT = (
    "learning_rate", "lr_", "_every", "epoch", "seed", "save_", "weight_decay", "autosave", "snapshots", "prompt",
    "name", "prior_loss", "caption", "tag", "hflip", "sampler", "scheduler", "cancel", "tf32", "benchmark", "compile",
)  # fmt: skip
_MEMORY_STEP = 250_000_000  # cards whose memory differs by less have the same plan
_OF_THE_LAUNCHER = ("ACCELERATE_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")  # environment of one of several ranks
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from dreambooth.runs.memory_plan import main; main()"


@dataclass(frozen=True)
class Scenario:
    """What determines a run's memory, besides the model and its settings.

    ``precision``: "bf16", "fp16" or "no". ``bucket``: width and height of the images, in pixels. ``class_images``: each
    step has as many as instance images; ``generates``: they are generated first. ``prompts_vary``: the text encoders
    stay on the device.
    """

    precision: str
    bucket: tuple[int, int]
    class_images: bool = False
    generates: bool = False
    prompts_vary: bool = False
    preview: bool = True


@dataclass(frozen=True)
class MemoryRequest:
    """What is planned. ``memory``: bytes of the card, which previews adapt to."""

    model: ModelFolder
    settings: Settings
    scenario: Scenario
    memory: int

    @property
    def cache_file(self) -> Path:
        return self.model.cache / "memory.json"

    def key(self) -> str:
        """Hash of all that a plan depends on."""
        relevant = {
            name: value
            for name, value in dataclasses.asdict(self.settings).items()
            if not any(part in name for part in _WITHOUT_EFFECT)
        }
        versions = [_VERSION, *map(_version, _LIBRARIES)]
        configs = [_config(path) for path in sorted(self.model.working.glob("*/config.json"))]
        scenario = dataclasses.asdict(self.scenario)
        memory = self.memory // _MEMORY_STEP
        text = json.dumps([versions, relevant, scenario, memory, configs], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


_plans = PlanCache()
_failures: set[str] = set()  # keys that could not be planned, which is tried once
_one_at_a_time = threading.Lock()


def known_plan(request: MemoryRequest) -> MemoryPlan | None:
    """The plan, if it was made before. Takes no time."""
    return _plans.get(request.cache_file, request.key())


def can_be_planned(request: MemoryRequest) -> bool:
    """Whether a plan is still to be made, and tracing has not failed before."""
    return known_plan(request) is None and request.key() not in _failures


def plan_memory(request: MemoryRequest) -> MemoryPlan | None:
    """The plan, made now if it was not before, which takes seconds; None where tracing fails."""
    key = request.key()
    with _one_at_a_time:
        plan = _plans.get(request.cache_file, key)
        if plan is None and key not in _failures:
            plan = _plan_in_process(request)
            if plan:
                _plans.put(request.cache_file, key, plan)
            else:
                _failures.add(key)
    return plan


def trace_memory(request: MemoryRequest) -> dict[str, Peak]:
    """The peaks of a run's phases. For the whole process torch is replaced meanwhile, see :mod:`memory_trace`."""
    from dreambooth.memory.virtual_cuda import GpuModel
    from dreambooth.memory.virtual_gpu import virtual_gpu
    from dreambooth.runs.memory_trace import trace

    with virtual_gpu(GpuModel(memory=request.memory)) as gpu:
        return trace(gpu, request.model, request.settings, request.scenario)


def _plan_in_process(request: MemoryRequest) -> MemoryPlan | None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_OF_THE_LAUNCHER)}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CODE, str(_ROOT)]
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        done = subprocess.run(
            command, input=_to_json(request), capture_output=True, text=True, encoding="utf-8", errors="replace",
            env=environment, timeout=_TIMEOUT, creationflags=flags,
        )  # fmt: skip
        phases = json.loads(done.stdout.splitlines()[-1])
        return MemoryPlan({phase: int(n) for phase, n in phases.items()})
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, AttributeError) as error:
        log.info("memory was not planned: %s", error)
        return None


def _to_json(request: MemoryRequest) -> str:
    return json.dumps({
        "dreambooth": str(request.model.folders.dreambooth), "model": request.model.name,
        "settings": dataclasses.asdict(request.settings), "scenario": dataclasses.asdict(request.scenario),
        "memory": request.memory,
    })  # fmt: skip


def main() -> None:
    """Read a request from stdin, and print the bytes of its phases."""
    import gc
    import warnings

    warnings.simplefilter("ignore")
    given: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    folder = Path(given["dreambooth"])
    model = ModelFolder(Folders(folder.parent, dreambooth=folder), given["model"])
    scenario = Scenario(**{**given["scenario"], "bucket": tuple(given["scenario"]["bucket"])})
    gc.freeze()  # what is imported
    peaks = trace_memory(MemoryRequest(model, parse(Settings, given["settings"]), scenario, given["memory"]))
    print(json.dumps({phase: peak.bytes for phase, peak in peaks.items()}), flush=True)
    os._exit(0)  # torch 2.1 may crash while it frees virtual tensors at the end of the process


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _config(path: Path) -> Any:
    return path.parent.name, read_json(path)
