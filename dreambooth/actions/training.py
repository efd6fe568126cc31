"""Train a model, generate its class images and samples, and recommend settings for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.actions.models import opened
from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.errors import UserError
from dreambooth.files import clear_leftovers
from dreambooth.jobs import Controls, Ended, Events
from dreambooth.jobs.events import Started
from dreambooth.settings import ModelConfig, ModelFolder
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.dataset.plan import Plan
    from dreambooth.runs.preflight import PreflightResult
    from dreambooth.runs.presets import Recommendation
    from dreambooth.runs.run import RunResult
    from dreambooth.sampling.generate import SampleRequest


def recommend(kind: str, model: ModelFolder, config: ModelConfig, device: Any = None) -> Recommendation:
    """Settings for this machine ("performance") or for the subject ("person", "object"), each with its reason."""
    from dreambooth.checkpoints.modules import load_family
    from dreambooth.hosts.standalone import best_device
    from dreambooth.runs import presets
    from dreambooth.runs.preflight import size_of

    has_class_images = any(
        concept.class_data_dir or concept.num_class_images_per or concept.regularization for concept in config.concepts
    )
    family = load_family(opened(model).working)
    if kind == "person":
        return presets.for_person(family, has_class_images, config.settings)
    if kind == "object":
        return presets.for_object(family, has_class_images, config.settings)
    size = size_of(model)
    return presets.for_machine(config.settings, device or best_device(), family, size, has_class_images, model)


def train(
    model: ModelFolder,
    config: ModelConfig,
    *,
    resume: str = "",
    controls: Controls | None = None,
    events: Events | None = None,
    device: Any = None,
    borrow_gpu: Callable[[], Any] | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> RunResult:
    """Save ``config`` and train the model with it. Returns when the run is done or cancelled.

    ``resume``: "latest", "best" or the name of a snapshot to resume from; "": a new run. A resume with nothing left to
    train is done at once and writes nothing; the result's message says why. ``device``: None takes
    the best device of this machine. ``borrow_gpu``: the host's context manager that frees the GPU for the run and
    gives it back afterwards. ``process_group``: the processes that train together, all called with the same arguments.
    UserError, before anything is loaded, with every reason why the run cannot start.
    """
    from dreambooth.runs.memory_need import memory_taken
    from dreambooth.runs.preflight import preflight
    from dreambooth.runs.run import run
    from dreambooth.runs.run_log import log_file, outcome_text, report_outcome

    controls, events = controls or Controls(), events or Events(model.logging)
    events.send(Started("train", dataclasses.asdict(config.settings), resume))
    log_folder = model.logging if process_group.is_main_process else None
    with log_file(log_folder), report_outcome(events), ExitStack() as borrowed:
        events.phase("preflight")
        progress = controls.cancellable(events.progress)
        checked = preflight(model, config, device or process_group.device(), progress, process_group, resume)
        for warning in checked.warnings:
            events.message(warning, level="warning")
        controls.check()
        if resume and (result := _nothing_left(checked)):
            events.send(Ended(result.state, text=result.message))
            return result
        if process_group.is_main_process:
            _save_start(model, config)
        if borrow_gpu:
            events.phase("host")
            borrowed.enter_context(borrow_gpu())
        if warning := memory_taken(checked.memory, checked.device):
            events.message(warning, level="warning")
        borrowed.enter_context(process_group.initialized(checked.device))
        context = checked.context(controls, events)
        with process_group.main_process_first():
            context = dataclasses.replace(context, plan=_with_class_images(checked, controls, events))
        if not process_group.all_equal(int(context.plan.fingerprint()[:15], 16)):
            raise UserError("The ranks see different images. Wait until the image folder stops changing, then restart.")
        result = run(context)
        events.send(Ended(result.state, text=outcome_text(result)))
    return result


def _nothing_left(checked: PreflightResult) -> RunResult | None:
    """The result of a run that has nothing left to train, and writes nothing."""
    from dreambooth.runs import resume_checks
    from dreambooth.runs.run import RunResult

    found = resume_checks.nothing_left(checked.model, checked.config, checked.resume, checked.steps)
    return RunResult("done", checked.config, (), found[0], 0.0, found[1]) if found else None


def _save_start(model: ModelFolder, config: ModelConfig) -> None:
    """Remove temporary files of interrupted writes, then save and back up the parameters that the run starts with."""
    for folder in (
        model.root,
        model.working,
        model.snapshots,
        model.abandoned,
        model.folders.loras,
        model.folders.checkpoints,
    ):
        clear_leftovers(folder)
    model.save(config)
    model.back_up(config.info.revision)


def class_images(
    model: ModelFolder,
    config: ModelConfig,
    *,
    controls: Controls | None = None,
    events: Events | None = None,
    device: Any = None,
    borrow_gpu: Callable[[], Any] | None = None,
) -> list[Path]:
    """Generate the class images that a run would generate first. Returns their files."""
    from dreambooth.runs.preflight import preflight

    controls, events = controls or Controls(), events or Events()
    checked = preflight(model, config, device, controls.cancellable(events.progress))
    with ExitStack() as borrowed:
        if borrow_gpu and checked.class_images:
            borrowed.enter_context(borrow_gpu())
        _with_class_images(checked, controls, events)
    return [path for path, _ in checked.class_images]


def _with_class_images(checked: PreflightResult, controls: Controls, events: Events) -> Plan:
    """The plan of a run once it has all its class images."""
    from dreambooth.runs.class_image_generation import generate_missing
    from dreambooth.runs.data_plan import plan_of

    if not checked.class_images:
        return checked.plan
    if checked.process_group.is_main_process:
        generate_missing(checked.context(controls, events), checked.class_images)
    return plan_of(checked.model, checked.config, controls.cancellable(events.progress))


def sample(
    model: ModelFolder,
    requests: Sequence[SampleRequest],
    out: Path,
    *,
    loras: Sequence[Path] = (),
    lora_weights: Sequence[float] = (),
    lora_text_weights: Sequence[float] = (),
    batch_size: int = 1,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Generate samples with the model, and LoRAs if given, into the folder ``out``. Returns their files.

    ``lora_weights``: one per LoRA, or none for 1; ``lora_text_weights``: the same for the text encoder, or none to
    use ``lora_weights``.
    """
    from dreambooth.checkpoints.lora import weighted_loras
    from dreambooth.runs.samples import sample

    model, uses = opened(model), weighted_loras(loras, lora_weights, lora_text_weights)
    return sample(model, requests, out, uses, batch_size, progress)
