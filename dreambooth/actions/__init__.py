"""What can be done with a model, one function each. The command line, the tab and the API all call these."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.actions import captions as captions  # callers name them as attributes
from dreambooth.actions import images as images
from dreambooth.actions import loras as loras
from dreambooth.distributed import SINGLE_PROCESS, ProcessGroup
from dreambooth.errors import UserError
from dreambooth.files import clear_leftovers, expand, read_json
from dreambooth.jobs import Controls, Events
from dreambooth.settings import Concept, Creation, Folders, ModelConfig, ModelFolder, Settings, parse
from dreambooth.settings.creation import AS_IS, PRECISIONS
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.dataset.plan import Plan
    from dreambooth.runs.interrupted import InterruptedRun
    from dreambooth.runs.preflight import PreflightResult
    from dreambooth.runs.presets import Recommendation
    from dreambooth.runs.run import RunResult


def create(
    folders: Folders,
    name: str,
    source: str | Path,
    options: Creation | None = None,
    *,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> ModelConfig:
    """Extract a checkpoint into ``models/dreambooth/NAME``. An existing model is left alone unless ``replace``.

    ``source``: a file, a diffusers folder, or a model of the Hugging Face hub ("org/name").
    """
    from dreambooth.checkpoints.extract import extract
    from dreambooth.checkpoints.hub import fetch, hub_id

    model, options = ModelFolder(folders, name), options or Creation()
    if not str(source).strip():
        raise UserError(
            "The source is empty: give a checkpoint's file, a diffusers folder, or a model's id on the hub."
        )
    if model.occupied() and not replace:
        raise UserError(f"{model.root} exists already: choose another name, or say --replace to make it anew.")
    on_hub = hub_id(str(source))
    facts = extract(
        fetch(str(source), options.token, progress) if on_hub else expand(source),
        model,
        model_type=options.model_type,
        prediction_type=options.prediction_type,
        vae=expand(options.vae) if options.vae.strip() else None,
        extract_ema=options.extract_ema,
        dtype=dtype_of(options.precision),
        origin=str(source).strip() if on_hub else "",
        progress=progress,
    )
    shutil.rmtree(model.snapshots, ignore_errors=True)  # of the model that was replaced
    settings = parse(Settings, {"resolution": facts_resolution(model)})
    config = ModelConfig(name, settings, (), facts)
    model.save(config)
    return config


def dtype_of(precision: str) -> Any:
    """torch's dtype for one of PRECISIONS; None: as it is."""
    import torch

    return getattr(torch, PRECISIONS[precision], None) if PRECISIONS[precision] else None


def facts_resolution(model: ModelFolder) -> int:
    """The picture size that the model was made for, in pixels."""
    return int(read_json(model.working / "unet" / "config.json")["sample_size"]) * 8


def configure(
    model: ModelFolder, overrides: Mapping[str, Any] | None = None, concepts: Sequence[Concept] | None = None
) -> ModelConfig:
    """The model's saved parameters with changes laid over them; nothing is written."""
    config = model.require().load()
    if overrides:
        config = dataclasses.replace(config, settings=parse(Settings, overrides, base=config.settings))
    return config if concepts is None else dataclasses.replace(config, concepts=tuple(concepts))


def check(
    model: ModelFolder,
    config: ModelConfig,
    device: Any = None,
    progress: ProgressCallback | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    resume: str = "",
) -> PreflightResult:
    """What a run would do, or every reason why it could not start, all at once.

    Nothing is loaded; nothing is kept but what was read of pictures, for the next look.
    """
    from dreambooth.runs.preflight import preflight

    return preflight(model, config, device, progress, process_group, resume)


def recommend(kind: str, model: ModelFolder, config: ModelConfig, device: Any = None) -> Recommendation:
    """Settings that suit this machine ("performance") or what is taught ("person", "object"), and why."""
    from dreambooth.hosts.standalone import best_device
    from dreambooth.runs import presets
    from dreambooth.runs.preflight import sizes_of

    class_pictures = any(
        concept.class_data_dir or concept.num_class_images_per or concept.regularization for concept in config.concepts
    )
    if kind == "person":
        return presets.for_person(class_pictures)
    if kind == "object":
        return presets.for_object(class_pictures)
    sizes = sizes_of(model.require())
    return presets.for_machine(config.settings, device or best_device(), *sizes, class_pictures)


def unfinished(model: ModelFolder) -> InterruptedRun | None:
    """The model's last run, if it broke off and can go on."""
    from dreambooth.runs.interrupted import unfinished

    return unfinished(model)


def best_snapshot(model: ModelFolder) -> int | None:
    """The snapshot of the last run whose validation loss is lowest; None where nothing was measured."""
    from dreambooth.training.snapshot import best

    return best(model)


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
    """Train ``model`` as ``config`` says, which is saved first. Returns when done, cancelled or failed.

    ``resume``: "latest", or the revision of a snapshot to go on from; "": a new run. ``device``: None takes the best
    there is. ``borrow_gpu``: the host's context manager that frees the GPU for us and takes it back afterwards.
    ``process_group``: the processes that train together; all of them come here with the same settings.
    """
    from dreambooth.runs.run import run
    from dreambooth.runs.run_log import ending, log_file, told

    controls, events = controls or Controls(), events or Events(model.logging)
    events.send("started", what="train", settings=dataclasses.asdict(config.settings))
    with log_file(model.logging if process_group.is_main else None), told(events), ExitStack() as borrowed:
        events.phase("preflight")
        device = device or process_group.device()
        checked = check(
            model,
            config,
            device,
            progress=controls.cancellable(events.progress),
            process_group=process_group,
            resume=resume,
        )
        for warning in checked.warnings:
            events.message(warning, level="warning")
        controls.check()
        if process_group.is_main:
            _make_ready(model, config)
        if borrow_gpu:
            events.phase("host")
            borrowed.enter_context(borrow_gpu())
        borrowed.enter_context(process_group.together(checked.device))
        with process_group.main_first():
            plan = _with_class_images(model, config, checked, controls, events, process_group)
        if not process_group.agrees(int(plan.fingerprint()[:15], 16)):
            raise UserError("The processes found different pictures. Wait until their folder rests, then start again.")
        result = run(model, config, plan, checked.device, checked.precision, resume, controls, events, process_group)
        events.send("ended", state=result.state, text=ending(result))
    return result


def _make_ready(model: ModelFolder, config: ModelConfig) -> None:
    """Tidy up, and keep what the run starts with."""
    for folder in (model.root, model.working, model.snapshots, model.folders.loras, model.folders.checkpoints):
        clear_leftovers(folder)
    model.save(config)
    model.back_up(config.facts.revision)


def class_images(
    model: ModelFolder,
    config: ModelConfig,
    *,
    controls: Controls | None = None,
    events: Events | None = None,
    device: Any = None,
    borrow_gpu: Callable[[], Any] | None = None,
) -> list[Path]:
    """Draw the class images that a run would draw first. The pictures that were made."""
    controls, events = controls or Controls(), events or Events()
    checked = check(model, config, device, progress=controls.cancellable(events.progress))
    with ExitStack() as borrowed:
        if borrow_gpu and checked.class_images:
            borrowed.enter_context(borrow_gpu())
        _with_class_images(model, config, checked, controls, events)
    return [path for path, _ in checked.class_images]


def _with_class_images(
    model: ModelFolder,
    config: ModelConfig,
    checked: PreflightResult,
    controls: Controls,
    events: Events,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Plan:
    """The plan of a run once it has all its class pictures."""
    from dreambooth.runs.class_image_generation import draw_missing
    from dreambooth.runs.data_plan import plan_of

    if not checked.class_images:
        return checked.plan
    if process_group.is_main:
        draw_missing(model, checked.class_images, config.settings, checked.device, checked.precision, controls, events)
    return plan_of(model, config, controls.cancellable(events.progress))


def sample(
    model: ModelFolder,
    shots: Sequence[Any],
    out: Path,
    *,
    loras: Sequence[Path] = (),
    lora_weights: Sequence[float] = (),
    lora_text_weights: Sequence[float] = (),
    batch_size: int = 1,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Draw pictures with the model, or with the model and LoRAs, into the folder ``out``.

    ``lora_weights``: one for each LoRA, or none for 1; ``lora_text_weights``: the same for the text encoder, or none
    to follow ``lora_weights``.
    """
    from dreambooth.checkpoints.lora import lora_uses
    from dreambooth.runs.samples import sample

    return sample(model, shots, out, lora_uses(loras, lora_weights, lora_text_weights), batch_size, progress)


def generate_checkpoint(
    model: ModelFolder,
    *,
    loras: Sequence[Path] = (),
    lora_weights: Sequence[float] = (),
    lora_text_weights: Sequence[float] = (),
    precision: str | None = None,
    out: Path | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Path, Any]:
    """Write the model as one file in its original layout, with LoRAs merged in if given, and check it.

    Returns the path and its :class:`dreambooth.checkpoints.verify.Verification`. What is not given (``None``, no
    weights at all) is taken from the model's settings; weights as for :func:`sample`.
    """
    from dreambooth.checkpoints.lora import lora_uses
    from dreambooth.checkpoints.single_file import write_checkpoint
    from dreambooth.checkpoints.verify import verify_checkpoint
    from dreambooth.training.metadata import checkpoint_metadata
    from dreambooth.training.results import checkpoint_path, ema_choice, unused_path

    config = model.require().load()
    precision = precision or ("fp16" if config.settings.half_model else AS_IS)
    own_weights = config.settings.lora_weight, config.settings.lora_txt_weight
    uses = lora_uses(loras, lora_weights, lora_text_weights, own_weights)
    path = unused_path(out) if out else checkpoint_path(model, config, "_lora" if uses else "")
    metadata = checkpoint_metadata(model, config, path.stem, [use.path for use in uses])
    write_checkpoint(
        model, path, loras=uses, dtype=dtype_of(precision), ema=ema_choice(config), metadata=metadata, progress=progress
    )
    verification = verify_checkpoint(path, model)
    if not verification.ok:
        raise UserError(f"{path} was written but did not pass its check: {verification.summary()}.")
    return path, verification


def inspect(path: Path, against: Path | None = None, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """What a model file or diffusers folder is, what it claims, what is odd, and how far it moved from another."""
    from dreambooth.checkpoints import inspection

    return inspection.inspect(expand(path), expand(against) if against else None, progress).as_dict()
