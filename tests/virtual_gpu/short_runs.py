"""A mode trained on one device, and what it left: the same on the CPU and, in a process of its own, on the GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from dreambooth import actions
from dreambooth.dataset.plan import Batch
from dreambooth.errors import UserError
from dreambooth.jobs import Events
from dreambooth.memory import activation_offload, offload
from dreambooth.settings import Concept, Folders, ModelConfig, ModelFolder
from dreambooth.training import cuda_graphs
from dreambooth.training.loop import Loop
from tests.mini_models import create
from tests.replayed_graph import ReplayedGraph
from tests.training.conftest import tensors
from tests.virtual_gpu.modes import ALL, changed, precision_of
from tools.hashed_runs import BASE, CHECKPOINTS, NAME, Run, concepts, write_images
from tools.virtual_gpu.pretend_gpu import current_gpu

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Summary:
    """``losses``: of each step, with those of the class images, and of each validation. ``memory``: as each step
    reports it. ``weights`` and ``images``: digests of the values in each file. ``syncs`` and ``copies``: of the last
    step on a GPU, by the function that made them. ``kernels``: the settings that were in force in it.
    ``emptied``: how often the allocator's cache was emptied in each preview on a GPU. ``replays``: of CUDA graphs.
    ``phase``: the last one.
    """

    error: str = ""
    losses: list[float | None] = dataclasses.field(default_factory=list)
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    images: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    memory: list[int] = dataclasses.field(default_factory=list)
    syncs: dict[str, int] = dataclasses.field(default_factory=dict)
    copies: dict[str, int] = dataclasses.field(default_factory=dict)
    kernels: list[str] = dataclasses.field(default_factory=list)
    emptied: list[int] = dataclasses.field(default_factory=list)
    replays: int = 0
    phase: str = ""


def train(run: Run, device: torch.device, folder: Path) -> Summary:
    """Train a mode in a new folder. Images are those of ``folder``'s parent."""
    create(Folders(folder), NAME, **CHECKPOINTS[run.model])
    model, summary = ModelFolder(Folders(folder), NAME), Summary()

    def listen(event: Mapping[str, Any]) -> None:
        if event["kind"] == "phase" and (gpu := current_gpu()):
            if summary.phase == "preview":
                summary.emptied.append(gpu.log.calls["empty_cache"])
            gpu.log.calls.clear()
            summary.phase = event["name"]
        if event["kind"] == "step":
            summary.losses += [event["loss"], event["prior_loss"]]
            summary.memory.append(event["memory"] or 0)
        elif event["kind"] == "validation":
            summary.losses.append(event["loss"])
        elif event["kind"] == "message" and event["level"] == "error":
            summary.problems.append(event["text"])

    ReplayedGraph.replays = 0
    try:
        with _steps_observed(summary):
            for config, resume in _configs(run, model, folder.parent):
                actions.train(model, config(), device=device, resume=resume, events=Events(model.logging, listen))
    except UserError as error:
        summary.error = str(error).replace(str(folder), "")
    summary.replays = ReplayedGraph.replays
    files = [*model.working.glob("*/*.safetensors"), *folder.glob("Lora/*"), *folder.glob("Stable-diffusion/*")]
    summary.weights = {f"{path.parent.name}/{path.name}": _digest(tensors(path)) for path in sorted(files)}
    summary.images = [_pixels(path) for path in sorted(folder.rglob("*.png"))]
    return summary


def on_virtual_gpu(names: Iterable[str], folder: Path) -> dict[str, Summary]:
    """These modes, in one process with the pretend GPU."""
    out = folder / "summaries.json"
    command = [sys.executable, "-m", "tools.virtual_gpu", "tests.virtual_gpu.short_runs", str(folder), str(out)]
    done = subprocess.run([*command, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: Summary(**values) for name, values in json.loads(out.read_text(encoding="utf-8")).items()}


def on_device(device: str, names: Iterable[str], folder: Path) -> dict[str, Summary]:
    """These modes, in this process. What trains in fp16, which no CPU can, trains in float32 on it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_images(folder)
    runs = {name: ALL[name] for name in names}
    if device == "cpu":
        without_fp16 = {"mixed_precision": "no"}
        runs = {n: changed(run, without_fp16) if precision_of(run) == "fp16" else run for n, run in runs.items()}
        runs = {n: changed(run, {"offload_fraction": 0, "offload_activations": False}) for n, run in runs.items()}
    return {name: train(run, torch.device(device), folder / f"{i}") for i, (name, run) in enumerate(runs.items())}


def _configs(run: Run, model: ModelFolder, images: Path) -> Iterable[tuple[Any, str]]:
    """The configuration of each part of a run, made when the part begins, and what it resumes from."""
    settings: dict[str, Any] = {**BASE, **(run.settings or {})}
    listed = [Concept(**{key: _absolute(key, value, images) for key, value in c.items()}) for c in concepts(run)]

    def configured(**changed: Any) -> ModelConfig:
        return actions.configure(model, {**settings, **changed}, listed)

    if run.stop_at:
        yield lambda: configured(max_train_steps=run.stop_at, save_state_after=True, save_lora_after=False), ""
    yield configured, "latest" if run.stop_at else ""


@contextlib.contextmanager
def _steps_observed(summary: Summary) -> Iterator[None]:
    """In the block, what each step does on the GPU is noted."""
    gpu, step = current_gpu(), Loop.step
    if gpu is None:
        yield
        return

    def observed(loop: Loop, group: Sequence[Batch]) -> None:
        gpu.log.clear()
        step(loop, group)
        syncs, copies = Counter[str](), Counter[str]()
        for place, n in gpu.log.syncs.items():
            syncs[place.name] += n
        for (kind, place), n in gpu.log.copies.items():
            copies[f"{kind} {place.name}"] += n
        summary.syncs, summary.copies, summary.kernels = dict(syncs), dict(copies), _kernels()

    with mock.patch.object(Loop, "step", observed):
        yield


def _kernels() -> list[str]:
    """The settings of kernels that are in force."""
    flags = {
        "allow_tf32": torch.get_float32_matmul_precision() == "high", "cudnn_benchmark": torch.backends.cudnn.benchmark
    }  # fmt: skip
    return [key for key, is_on in flags.items() if is_on]


def _absolute(key: str, value: Any, images: Path) -> Any:
    return str(images / value) if key.endswith("_data_dir") and value else value


def _digest(values: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(values.items()):
        digest.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pixels(path: Path) -> str:
    with Image.open(path) as image:
        return hashlib.sha256(image.tobytes()).hexdigest()


def main() -> None:
    os.fsync = lambda handle: None  # as tests do, see conftest.py
    cuda_graphs.CudaGraph = ReplayedGraph
    offload.MIN_BYTES = activation_offload.MIN_BYTES = 1024  # a very small model has small tensors only
    folder, out, *names = sys.argv[1:]
    summaries = on_device("cuda", names, Path(folder))
    values = {name: dataclasses.asdict(summary) for name, summary in summaries.items()}
    Path(out).write_text(json.dumps(values), encoding="utf-8")


if __name__ == "__main__":
    main()
