"""What a run will write, and why it could not: names, folders, the manifest that exporting needs, free disk space.

Everything that ends a run at its last step, after hours of training, and is known at its first, is found here. Only
headers of weight files are read.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth.checkpoints.manifest import UNMAPPED, Manifest, unmapped_path
from dreambooth.checkpoints.modules import load_family, open_component, weights_path, weights_problem
from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.files import existing_part, write_problem
from dreambooth.memory.forecast import ModelSize, forecast_lora, forecast_snapshot, forecast_working
from dreambooth.runs.class_image_generation import MissingImage
from dreambooth.settings import ModelConfig, ModelFolder, Settings
from dreambooth.settings.components import trained_components
from dreambooth.settings.names import name_problem
from dreambooth.text import count, format_bytes
from dreambooth.training.scheduled_tasks import outputs_to_save

OCCASIONS = ("during", "after", "cancel")
_BYTES_PER_PIXEL = 2  # of a PNG of a generated image, seldom more
_RESERVE = 50_000_000  # for logs, caches and what other programs write meanwhile


@dataclass(frozen=True)
class Output:
    """Files of one kind that a run writes to one folder."""

    what: str
    folder: Path
    n_bytes: int  # of each
    number: int = 1

    @property
    def total(self) -> int:
        return self.n_bytes * self.number

    def __str__(self) -> str:
        size = format_bytes(self.n_bytes)
        return f"{count(self.number, self.what)} of {size}" if self.number > 1 else f"{self.what} {size}"


# -- names, folders, manifest --------------------------------------------------------------------------------------


def writing_problems(model: ModelFolder, config: ModelConfig, steps: int = 0) -> list[str]:
    """Why the results of a run of ``steps`` could not be written or exported."""
    problems = []
    if problem := name_problem(config.output_name):
        problems.append(f"custom_model_name: {problem}.")
    else:
        problems += _target_problems(_targets(model, config, config.info.revision + steps))
    return [*problems, *_manifest_problems(model)]


def _targets(model: ModelFolder, config: ModelConfig, revision: int) -> Iterator[Path]:
    """A file in each folder that the run writes to."""
    settings = config.settings
    yield model.config_path
    for folder in (model.logging, model.cache, model.backups, model.samples):
        yield folder / "file"
    saved = {output for when in OCCASIONS for output in outputs_to_save(settings, when)}
    name = f"{config.output_name}_{revision}.safetensors"
    if "lora" in saved:
        yield model.folders.loras / name
    if "working and checkpoint" in saved:
        yield model.folders.checkpoints / (config.output_name if settings.use_subdir else "") / name
    if "working" in saved or "working and checkpoint" in saved:
        trained = trained_components(settings)
        for component in load_family(model.working).components:
            if component.role in trained:
                yield weights_path(model.working, component.name)
    if "snapshot" in saved or settings.autosave_minutes:
        yield model.snapshots / str(revision) / "file"


def _target_problems(targets: Iterable[Path]) -> list[str]:
    problems = []
    for target in targets:
        if target.is_dir():
            problems.append(f"{target} is a folder, but a file of this name will be saved: rename or move the folder.")
        elif problem := write_problem(target):
            problems.append(problem)
    return list(dict.fromkeys(problems))


def _manifest_problems(model: ModelFolder) -> list[str]:
    """Whether a checkpoint or LoRA can be exported: the manifest names the tensors that ``working`` has."""
    try:
        manifest = Manifest.load(model.source)
        family = load_family(model.working)
    except UserError as error:
        return error.problems
    if manifest.family != family.model_type:
        return [
            f"{model.source} is of a model of the type {manifest.family}, {model.working} of the type "
            f"{family.model_type}: copy the model's whole folder again, or create the model again."
        ]
    shapes = manifest.shapes()
    expected: dict[str, dict[str, tuple[int, ...]]] = {}
    for entry in manifest.entries:
        for ref in entry.refs:
            expected.setdefault(ref.component, {})[ref.name] = shapes.get(ref, entry.shape)
    return [
        problem for component, tensors in expected.items() if (problem := _component_problem(model, component, tensors))
    ]


def _component_problem(model: ModelFolder, component: str, expected: dict[str, tuple[int, ...]]) -> str:
    is_unmapped = component == UNMAPPED
    path = unmapped_path(model.source) if is_unmapped else weights_path(model.working, component)
    if component in load_family(model.working).component_names and weights_problem(model.working, component):
        return ""  # reported by the preflight
    try:
        with open_tensors(path) if path.exists() else open_component(model.working, component) as file:
            differing = [
                name
                for name, shape in expected.items()
                if name not in file or math.prod(file.shape(name)) != math.prod(shape)
            ]
    except UserError as error:
        return f"{error} Copy the model's whole folder again, or create the model again."
    if not differing:
        return ""
    return (
        f"{path} does not match {model.source / 'manifest.json'}: {count(len(differing), 'tensor')} missing or of "
        f"another shape, first {differing[0]}. Copy the model's whole folder again, or create the model again."
    )


# -- disk space ----------------------------------------------------------------------------------------------------


def planned_outputs(
    model: ModelFolder,
    config: ModelConfig,
    size: ModelSize,
    steps: int,
    steps_per_epoch: int,
    class_images: Sequence[MissingImage] = (),
) -> list[Output]:
    """What a run writes until its end. ``size``: of the model."""
    settings, folders = config.settings, model.folders
    epochs = -(-steps // max(1, steps_per_epoch))
    during = _occasions(settings.save_embedding_every, epochs) + _occasions(settings.save_every_steps, steps)

    def number(what: str) -> int:
        """Of files: those that are saved during the run, and one at its end."""
        at_end = any(what in outputs_to_save(settings, when) for when in ("after", "cancel"))
        return (during if what in outputs_to_save(settings, "during") else 0) + at_end

    outputs = []
    if settings.use_lora:
        outputs.append(Output("LoRA", folders.loras, forecast_lora(settings, size), number("lora")))
    else:
        working = forecast_working(settings, size)
        outputs.append(Output("weights in working", model.root, working))
        checkpoints = number("working and checkpoint")
        outputs.append(Output("checkpoint", folders.checkpoints, _checkpoint_bytes(model, settings), checkpoints))
    snapshots, kept = number("snapshot"), settings.snapshots_to_keep
    if snapshots:
        snapshots = min(snapshots, kept + 1) if kept else snapshots  # an old one is deleted after a new one is complete
        outputs.append(Output("snapshot", model.root, forecast_snapshot(settings, size), snapshots))
    previews = _occasions(settings.save_preview_every, epochs) + _occasions(settings.preview_every_steps, steps) + 1
    per_preview = sum(concept.n_save_sample for concept in config.concepts) + bool(settings.sanity_prompt)
    samples = Output("sample", model.root, _BYTES_PER_PIXEL * settings.resolution**2, previews * per_preview)
    outputs.append(samples)
    for folder in {path.parent for path, _ in class_images}:
        pixels = [request.width * request.height for path, request in class_images if path.parent == folder]
        n_bytes = _BYTES_PER_PIXEL * sum(pixels) // len(pixels)
        outputs.append(Output("class image", folder, n_bytes, len(pixels)))
    return [output for output in outputs if output.total]


def space_problems(outputs: Sequence[Output]) -> list[str]:
    """A message for each drive that is too small for what a run writes to it."""
    drives: dict[int, list[Output]] = {}
    for output in outputs:
        drives.setdefault(os.stat(existing_part(output.folder)).st_dev, []).append(output)
    problems = []
    for written in drives.values():
        needed = sum(output.total for output in written) + _RESERVE
        folders = list(dict.fromkeys(str(output.folder) for output in written))
        free = shutil.disk_usage(existing_part(written[0].folder)).free
        if free < needed:
            parts = ", ".join(str(output) for output in sorted(written, key=lambda o: -o.total))
            problems.append(
                f"This run needs {format_bytes(needed)} in {' and '.join(folders)} ({parts}), but only "
                f"{format_bytes(free)} is free: free some space, choose folders on another drive, or save less often."
            )
    return problems


def _occasions(interval: int, length: int) -> int:
    """How often something is due that is due at each multiple of ``interval``, without the end itself."""
    return (length - 1) // interval if interval and length else 0


def _checkpoint_bytes(model: ModelFolder, settings: Settings) -> int:
    """The manifest's tensors that are exported, in half precision if the settings say so, and EMA weights."""
    manifest, family, total = Manifest.load(model.source), load_family(model.working), 0
    for entry in manifest.exported_entries(family):
        halved = settings.half_model and entry.component != UNMAPPED and entry.spec.dtype.itemsize == 4
        total += entry.spec.n_bytes // (2 if halved else 1)
    includes_ema = settings.use_ema and settings.save_ema and not settings.infer_ema
    denoiser = family.denoiser
    has_own = any(entry.component == denoiser.ema_name for entry in manifest.entries)
    if includes_ema and family.ema_prefix and not has_own:
        total += sum(entry.spec.n_bytes for entry in manifest.entries if entry.component == denoiser.name)
    return total
