"""What can be done with a model, one function each. The command line, the tab and the API all call these."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.files import clear_leftovers, expand, explain, read_json
from dreambooth.jobs import Controls, Events
from dreambooth.settings import Concept, Creation, Folders, ModelConfig, ModelFolder, Settings, parse
from dreambooth.settings.creation import AS_IS, PRECISIONS

if TYPE_CHECKING:
    from dreambooth.runs.advice import Advice
    from dreambooth.runs.preflight import Checked
    from dreambooth.runs.run import RunResult
    from dreambooth.runs.unfinished import Unfinished

log = logging.getLogger("dreambooth")

Progress = Callable[[int, int, str], None]
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")


def create(
    folders: Folders,
    name: str,
    source: str | Path,
    options: Creation | None = None,
    *,
    replace: bool = False,
    progress: Progress | None = None,
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


def check(model: ModelFolder, config: ModelConfig, device: Any = None, progress: Progress | None = None) -> Checked:
    """What a run would do, or every reason why it could not start, all at once. Nothing is loaded or written."""
    from dreambooth.runs.preflight import preflight

    return preflight(model, config, device, progress)


def advise(kind: str, model: ModelFolder, config: ModelConfig, device: Any = None) -> Advice:
    """Settings that suit this machine ("performance") or what is taught ("person", "object"), and why."""
    from dreambooth.hosts.alone import best_device
    from dreambooth.runs import advice
    from dreambooth.runs.preflight import sizes_of

    class_pictures = any(concept.class_data_dir for concept in config.concepts)
    if kind == "person":
        return advice.for_person(class_pictures)
    if kind == "object":
        return advice.for_object(class_pictures)
    sizes = sizes_of(model.require())
    return advice.for_machine(config.settings, device or best_device(), *sizes, class_pictures)


def unfinished(model: ModelFolder) -> Unfinished | None:
    """The model's last run, if it broke off and can go on."""
    from dreambooth.runs.unfinished import unfinished

    return unfinished(model)


def train(
    model: ModelFolder,
    config: ModelConfig,
    *,
    resume: str = "",
    controls: Controls | None = None,
    events: Events | None = None,
    device: Any = None,
    borrow_gpu: Callable[[], Any] | None = None,
) -> RunResult:
    """Train ``model`` as ``config`` says, which is saved first. Returns when done, cancelled or failed.

    ``resume``: "latest", or the revision of a snapshot to go on from; "": a new run. ``device``: None takes the best
    there is. ``borrow_gpu``: the host's context manager that frees the GPU for us and takes it back afterwards.
    """
    from dreambooth.runs.run import run

    controls, events = controls or Controls(), events or Events(model.logging)
    events.send("started", what="train", settings=dataclasses.asdict(config.settings))
    with _log_file(model.logging), _told(events), ExitStack() as borrowed:
        events.phase("preflight")
        checked = check(model, config, device, progress=controls.watched(events.progress))
        for warning in checked.warnings:
            events.message(warning, level="warning")
        controls.check()
        for folder in (model.root, model.working, model.snapshots, model.folders.loras, model.folders.checkpoints):
            clear_leftovers(folder)
        model.save(config)
        model.back_up(config.facts.revision)
        if borrow_gpu:
            events.phase("host")
            borrowed.enter_context(borrow_gpu())
        result = run(model, config, checked.plan, checked.device, checked.precision, resume, controls, events)
        events.send("ended", state=result.state, text=_ending(result))
    return result


def sample(
    model: ModelFolder,
    shots: Sequence[Any],
    out: Path,
    *,
    loras: Sequence[Path] = (),
    lora_weights: Sequence[float] = (),
    lora_text_weights: Sequence[float] = (),
    batch_size: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw pictures with the model, or with the model and LoRAs, into the folder ``out``.

    ``lora_weights``: one for each LoRA, or none for 1; ``lora_text_weights``: the same for the text encoder, or none
    to follow ``lora_weights``.
    """
    from dreambooth.checkpoints.lora import apply_lora, lora_uses, read_lora
    from dreambooth.checkpoints.modules import load_modules, load_unet
    from dreambooth.hosts.alone import best_device
    from dreambooth.sampling.draw import draw
    from dreambooth.sampling.pictures import save_picture

    config = model.require().load()
    settings = config.settings
    adapters = [(read_lora(use.path), use) for use in lora_uses(loras, lora_weights, lora_text_weights)]
    modules = load_modules(model.working)
    if settings.use_ema and settings.infer_ema and (model.working / "ema_unet").is_dir():
        modules.unet = load_unet(model.working, name="ema_unet")
    for adapter, use in adapters:
        apply_lora(modules, adapter, use.unet, use.text)
    for module in (modules.unet, modules.vae, *modules.text_encoders.values()):
        module.to(best_device()).eval()
    pictures = draw(
        modules,
        shots,
        sampler=settings.scheduler,
        clip_skip=settings.clip_skip,
        batch_size=batch_size,
        progress=progress,
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return [
        save_picture(_unused(out, f"{model.name}_{stamp}_{n:03d}_{shot.seed}"), picture, shot, settings.scheduler)
        for n, (shot, picture) in enumerate(zip(shots, pictures, strict=True))
    ]


def generate_checkpoint(
    model: ModelFolder,
    *,
    loras: Sequence[Path] = (),
    lora_weights: Sequence[float] = (),
    lora_text_weights: Sequence[float] = (),
    precision: str | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, Any]:
    """Write the model as one file in its original layout, with LoRAs merged in if given, and check it.

    Returns the path and its :class:`dreambooth.checkpoints.verify.Verification`. What is not given (``None``, no
    weights at all) is taken from the model's settings; weights as for :func:`sample`.
    """
    from dreambooth.checkpoints.lora import lora_uses
    from dreambooth.checkpoints.single_file import write_checkpoint
    from dreambooth.checkpoints.verify import verify_checkpoint
    from dreambooth.training.metadata import checkpoint_metadata
    from dreambooth.training.results import checkpoint_path, ema_choice, free_path

    config = model.require().load()
    precision = precision or ("fp16" if config.settings.half_model else AS_IS)
    own_weights = config.settings.lora_weight, config.settings.lora_txt_weight
    uses = lora_uses(loras, lora_weights, lora_text_weights, own_weights)
    path = free_path(out) if out else checkpoint_path(model, config, "_lora" if uses else "")
    metadata = checkpoint_metadata(model, config, path.stem, [use.path for use in uses])
    write_checkpoint(
        model, path, loras=uses, dtype=dtype_of(precision), ema=ema_choice(config), metadata=metadata, progress=progress
    )
    verification = verify_checkpoint(path, model)
    if not verification.ok:
        raise UserError(f"{path} was written but did not pass its check: {verification.summary()}.")
    return path, verification


@contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """What our own loggers say during a run, tracebacks and all, also goes to ``folder/log.txt``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    except OSError as error:
        raise explain(error, folder) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def _told(events: Events) -> Any:
    """However the block ends, the log says so in words, and is closed."""
    from dreambooth.errors import Cancelled

    try:
        yield
    except Cancelled:
        events.send("ended", state="cancelled", text="Cancelled before the first step; nothing was changed.")
        raise
    except UserError as error:
        if error.__cause__:
            log.error("the cause of what was said", exc_info=error)
        events.send("ended", state="failed", text=str(error))
        raise
    except BaseException as error:
        log.exception("the run failed")
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
            text = "Out of memory. Lower the batch size or resolution, use gradient checkpointing, or train a LoRA."
            events.send("ended", state="failed", text=text)
            raise UserError(text) from error
        events.send("ended", state="failed", text=text)
        raise
    finally:
        events.close()


def _ending(result: RunResult) -> str:
    made = f" Made: {', '.join(path.name for path in result.files)}." if result.files else ""
    how = "Training is done" if result.state == "done" else "Training was cancelled"
    return f"{how} after {result.steps} steps.{made}"


def _unused(folder: Path, stem: str) -> Path:
    from dreambooth.training.results import free_path

    return free_path(Path(folder) / f"{stem}.png")
