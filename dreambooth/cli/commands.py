"""Implementation of the commands: parsed arguments in, a plain result out."""

from __future__ import annotations

import argparse
import functools
import logging
import shutil
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.cli.check_report import rate_range, short_report
from dreambooth.cli.image_table import image_table
from dreambooth.cli.in_job import in_job
from dreambooth.cli.options import assignments
from dreambooth.distributed import ProcessGroup
from dreambooth.errors import UserError
from dreambooth.hosts.standalone import StandaloneHost
from dreambooth.jobs import Events
from dreambooth.paths import clean_path
from dreambooth.runs.interrupted import interrupted_run, resume_command
from dreambooth.settings import (
    CREATE_OPTIONS,
    SETTINGS,
    CreateOptions,
    Folders,
    ModelFolder,
    parse,
    reference,
)
from dreambooth.settings.creation import TEXT_ENCODER_OPTIONS
from dreambooth.settings.declare import declared
from dreambooth.settings.tools import SIZE, ExtractOptions, MergeOptions, ResizeOptions
from dreambooth.terminal import ProgressBar
from dreambooth.training.snapshot_list import list_snapshots

TABLE_WIDTH = 120  # characters, if the output is not a terminal


def create(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    if len(args.text_encoder) > len(TEXT_ENCODER_OPTIONS):
        raise UserError(f"--text-encoder was given {len(args.text_encoder)} times: no model has more than two.")
    files = dict(zip(TEXT_ENCODER_OPTIONS, args.text_encoder, strict=False))
    others = {key: getattr(args, key) for key in CREATE_OPTIONS if key not in TEXT_ENCODER_OPTIONS}
    given = {**files, **{key: value for key, value in others.items() if value is not None}}
    options = parse(CreateOptions, {"precision": "fp16", **given} if args.half else given)
    config = in_job(
        "create",
        lambda controls: actions.create(
            folders(args),
            args.name,
            args.source,
            options,
            replace=args.replace,
            progress=controls.cancellable(bar.show),
        ),
    )
    return {
        "state": "done",
        "model": config.name,
        "path": str(_model(args).root),
        "type": config.info.model_type,
        "recognized": config.info.recognized,
    }


def train(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    model = _model(args)
    config, process_group = _config(args, model), ProcessGroup.from_environment()
    interrupted = None if args.resume else interrupted_run(model)
    if interrupted:
        bar.line(interrupted.offer(model.name, _resume_command(model, args)))
    events = Events(model.logging, bar.listen) if process_group.is_main_process else Events()
    result = in_job(
        "train",
        lambda controls: actions.train(
            model, config, resume=args.resume, controls=controls, events=events, process_group=process_group
        ),
    )
    message = _how_to_continue(model, args) if result.state == "cancelled" else result.message
    if message:
        bar.line(message)
    return {
        "state": result.state,
        **({"message": message} if message and args.json else {}),
        "steps": result.steps,
        "revision": result.config.info.revision,
        "seconds_per_step": round(result.seconds_per_step, 5),
        "files": [str(path) for path in result.files],
        "log": str(events.path),
    }


def _how_to_continue(model: ModelFolder, args: argparse.Namespace) -> str:
    """One line about a canceled run: the snapshot that it can be resumed from, and the command."""
    found = interrupted_run(model)
    resumed = list_snapshots(model).newest if args.resume else None  # canceled before its first step
    snapshot = found.snapshot if found else resumed
    if snapshot is None:
        return "No snapshot of this run was saved (see save_state_cancel), so it can't be continued."
    return f"To continue from step {snapshot.step} (snapshot {snapshot.name}): {_resume_command(model, args)}"


def _resume_command(model: ModelFolder, args: argparse.Namespace) -> str:
    """The command that continues a run whose settings and concepts are saved."""
    is_default = args.models_dir == str(StandaloneHost().models_dir)
    return resume_command(model.name) + ("" if is_default else f' --models-dir "{args.models_dir}"')


def class_images(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    model = _model(args)
    config, events = _config(args, model), Events(None, bar.listen)
    paths = in_job(
        "class-images", lambda controls: actions.class_images(model, config, controls=controls, events=events)
    )
    return {"state": "done", "drawn": [str(path) for path in paths]}


def sample(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    from dreambooth.sampling.generate import SampleRequest

    model = actions.opened(_model(args), bar.show)
    side = actions.native_resolution(model)
    requests = [
        SampleRequest(
            args.prompt, args.negative, args.seed + i, args.steps, args.cfg, args.width or side, args.height or side
        )
        for i in range(args.count)
    ]
    paths = in_job(
        "sample",
        lambda controls: actions.sample(
            model, requests, clean_path(args.out), **_loras(args), progress=controls.cancellable(bar.show),
        ),
    )  # fmt: skip
    return {"state": "done", "samples": [str(path) for path in paths]}


def generate(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    path, verification = in_job(
        "generate-ckpt",
        lambda controls: actions.generate_checkpoint(
            _model(args), **_loras(args), precision="fp16" if args.half else args.precision,
            out=args.out and clean_path(args.out),
            progress=controls.cancellable(bar.show),
        ),
    )  # fmt: skip
    config = path.with_suffix(".yaml")  # which WebUIs read with it
    return {
        "state": "done",
        "checkpoint": str(path),
        **({"config": str(config)} if config.is_file() else {}),
        "summary": verification.summary(),
        **verification.as_dict(),
    }


def lora_extract(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    return _run_lora_tool(args, ExtractOptions, bar, functools.partial(
        actions.loras.extract_lora, folders(args), args.base, args.tuned, clean_path(args.out)
    ))  # fmt: skip


def lora_resize(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    from dreambooth.checkpoints.lora_tags import find_lora

    lora = find_lora(folders(args), args.lora, "lora-resize")
    work = functools.partial(actions.loras.resize_lora, lora, clean_path(args.out))
    return _run_lora_tool(args, ResizeOptions, bar, work)


def lora_merge(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    loras = _loras(args)
    work = functools.partial(actions.loras.merge_loras, loras.pop("loras"), clean_path(args.out), **loras)
    return _run_lora_tool(args, MergeOptions, bar, work)


def _run_lora_tool(
    args: argparse.Namespace, options: type, bar: ProgressBar, work: Callable[..., Any]
) -> dict[str, Any]:
    """Call ``work`` with the size options of this command, or their defaults."""
    size = [key for key, setting in declared(options).items() if setting.group == SIZE]
    chosen = parse(options, {key: getattr(args, key) for key in size if getattr(args, key) is not None})
    given = {key: getattr(chosen, key) for key in size}
    result = in_job(args.command, lambda controls: work(**given, progress=controls.cancellable(bar.show)))
    return {"state": "done", **result}


def check(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    from dreambooth.runs.preflight import preflight

    model = _model(args)
    result = preflight(model, _config(args, model), progress=bar.show, plans_memory=True)
    if not (args.json or args.verbose):
        return short_report(result)
    checked = {"state": "done", **result.as_dict()}
    if not args.json:
        checked["learning_rates"] = {part: rate_range(curve) for part, curve in checked["learning_rates"].items()}
        checked["table"] = image_table(checked["table"], checked.pop("other_files"))
    return checked


def inspect(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    from dreambooth.checkpoints import inspection

    against = clean_path(args.against) if args.against else None
    found = in_job(
        "inspect",
        lambda controls: inspection.inspect(clean_path(args.file), against, controls.cancellable(bar.show)),
    )
    return {"state": "done", **found.as_dict()}


def settings(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    """All settings as a table or as Markdown, or the settings of a run as JSON."""
    if args.markdown:
        return reference.markdown()
    if not args.json:
        return reference.table(shutil.get_terminal_size((TABLE_WIDTH, 24)).columns)
    return {
        key: {"default": s.default, "label": s.label, "help": s.help, "low": s.low, "high": s.high,
              "choices": list(s.choices), "tab": s.tab, "group": s.group, "applies": s.applies}
        for key, s in SETTINGS.items()
    }  # fmt: skip


def folders(args: argparse.Namespace) -> Folders:
    if not args.models_dir.strip():
        raise UserError("--models-dir is empty. Set it to the WebUI's models folder.")
    return Folders(clean_path(args.models_dir))


def _loras(args: argparse.Namespace) -> dict[str, Any]:
    from dreambooth.checkpoints.lora_tags import find_lora

    return {
        "loras": [find_lora(folders(args), lora, "--lora") for lora in args.lora],
        "lora_weights": args.lora_weight,
        "lora_text_weights": args.lora_text_weight,
    }


def _model(args: argparse.Namespace) -> ModelFolder:
    return ModelFolder(folders(args), args.name)


def _config(args: argparse.Namespace, model: ModelFolder) -> Any:
    """The saved settings, overridden by --set and --concepts; a UserError lists all problems at once."""
    overrides, concepts, problems = overrides_of(args)
    try:
        config = actions.configure(model, overrides, concepts)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError.from_problems(problems)
    return config


def overrides_of(args: argparse.Namespace) -> tuple[dict[str, str], Any, list[str]]:
    """(values of --set, concepts of --concepts or None, problems with both)."""
    overrides, problems = assignments(args.set)
    concepts = None
    if args.concepts:
        from dreambooth.interop.input_kind import recognize_concepts

        try:
            found = recognize_concepts(args.concepts)
            concepts = found.concepts
            for message in found.unsupported:
                logging.getLogger("dreambooth").warning("--concepts: %s", message)
        except UserError as error:
            problems += error.problems
    return overrides, concepts, problems
