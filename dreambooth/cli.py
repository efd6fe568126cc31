"""The command line: ``python -m dreambooth WORD ...``. Results on standard output, everything else on standard error.

Exit codes: 0 done, 1 refused with a line that says why, 130 cancelled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.errors import Cancelled, UserError
from dreambooth.hosts.alone import Alone
from dreambooth.jobs import Controls, Events, Job, jobs
from dreambooth.settings import SETTINGS, Folders, ModelFolder, nearest, read_concepts
from dreambooth.terminal import ProgressBar

DONE, REFUSED, CANCELLED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = _parser().parse_args(argv)
    bar = ProgressBar()
    _log_to_stderr()
    try:
        result = args.run(args, bar)
        bar.end()
        with contextlib.suppress(BrokenPipeError):  # who read our output has gone
            _print(result, args.json)
        return CANCELLED if isinstance(result, dict) and result.get("state") == "cancelled" else DONE
    except (Cancelled, KeyboardInterrupt):
        bar.end()
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except UserError as error:
        bar.end()
        if error.__cause__:
            _log_traceback(args)
        if args.json:
            print(json.dumps({"state": "refused", "problems": error.problems}, ensure_ascii=False))
        for problem in error.problems:
            print(f"dreambooth: {problem}", file=sys.stderr)
        return REFUSED
    except Exception as error:
        bar.end()
        path = _log_traceback(args)
        print(f"dreambooth: unexpected {type(error).__name__}: {error} (traceback in {path})", file=sys.stderr)
        return REFUSED


# -- commands -------------------------------------------------------------------------------------------------


def _create(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    config = _in_job(
        "create",
        lambda controls: actions.create(
            _folders(args), args.name, args.source, extract_ema=args.extract_ema, half=args.half, replace=args.replace,
            progress=controls.watched(bar.show),
        ),
    )  # fmt: skip
    return {"state": "done", "model": config.name, "path": str(_model(args).root), "type": config.facts.model_type}


def _train(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    model = _model(args)
    config = _config(args, model)
    events = Events(model.logging, bar.listen)
    result = _in_job(
        "train",
        lambda controls: actions.train(model, config, resume=args.resume, controls=controls, events=events),
    )
    return {
        "state": result.state,
        "steps": result.steps,
        "revision": result.config.facts.revision,
        "seconds_per_step": round(result.seconds_per_step, 5),
        "files": [str(path) for path in result.files],
        "log": str(events.path),
    }


def _sample(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    from dreambooth.sampling.draw import Shot

    model = _model(args).require()
    side = actions.facts_resolution(model)
    shots = [
        Shot(args.prompt, args.negative, args.seed + i, args.steps, args.cfg, args.width or side, args.height or side)
        for i in range(args.count)
    ]
    paths = _in_job(
        "sample",
        lambda controls: actions.sample(
            model, shots, Path(args.out), lora=args.lora and Path(args.lora), lora_weight=args.lora_weight,
            progress=controls.watched(bar.show),
        ),
    )  # fmt: skip
    return {"state": "done", "samples": [str(path) for path in paths]}


def _generate(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    path, verification = _in_job(
        "generate-ckpt",
        lambda controls: actions.generate_checkpoint(
            _model(args), lora=args.lora and Path(args.lora), lora_weight=args.lora_weight,
            half=args.half or None, out=args.out and Path(args.out), progress=controls.watched(bar.show),
        ),
    )  # fmt: skip
    return {"state": "done", "checkpoint": str(path), "summary": verification.summary(), **verification.as_dict()}


def _check(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    model = _model(args)
    checked = actions.check(model, _config(args, model), progress=bar.show)
    return {"state": "done", **checked.as_dict()}


def _settings(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    """Every setting, as declared."""
    return {
        key: {"default": s.default, "label": s.label, "help": s.help, "low": s.low, "high": s.high,
              "choices": list(s.choices), "tab": s.tab, "group": s.group, "applies": s.applies}
        for key, s in SETTINGS.items()
    }  # fmt: skip


# -- arguments ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dreambooth",
        description="DreamBooth training for Stable Diffusion.",
        epilog="Also: demo (the whole job on the embedded model), ui (the page).",
    )
    words = parser.add_subparsers(required=True, metavar="WORD")

    create = _word(words, "create", _create, "extract a checkpoint into a model that can be trained")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--source", required=True, help="a .safetensors or .ckpt file, or a diffusers folder")
    create.add_argument(
        "--extract-ema",
        action="store_true",
        help="also keep the file's averaged (EMA) unet weights, in working/ema_unet",
    )
    create.add_argument("--half", action="store_true", help="keep the model in half precision")
    create.add_argument("--replace", action="store_true", help="make an existing model anew")

    train = _word(words, "train", _train, "train a model; Ctrl-C once saves and stops, twice stops at once")
    train.add_argument("name", metavar="NAME")
    _add_settings(train)
    train.add_argument("--resume", action="store_true", help="go on from the newest snapshot")

    sample = _word(words, "sample", _sample, "draw pictures")
    sample.add_argument("name", metavar="NAME")
    sample.add_argument("--prompt", required=True)
    sample.add_argument("--negative", default="")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--steps", type=_positive, default=20)
    sample.add_argument("--cfg", type=float, default=7.5)
    sample.add_argument("--width", type=_positive)
    sample.add_argument("--height", type=_positive)
    sample.add_argument("--count", type=_positive, default=1, help="pictures, each with the next seed")
    _add_lora(sample, default=1.0)
    sample.add_argument("--out", required=True, metavar="DIR")

    generate = _word(words, "generate-ckpt", _generate, "write the model as one checkpoint file")
    generate.add_argument("name", metavar="NAME")
    _add_lora(generate, default=None)
    generate.add_argument("--half", action="store_true", help="half precision")
    generate.add_argument("--out", metavar="FILE")

    check = _word(words, "check", _check, "say what a run would do, or why it could not start")
    check.add_argument("name", metavar="NAME")
    _add_settings(check)

    _word(words, "settings", _settings, "list all settings")
    return parser


def _word(words: Any, name: str, run: Callable[..., Any], help: str) -> argparse.ArgumentParser:
    parser = words.add_parser(name, help=help, description=help.capitalize() + ".")
    parser.add_argument("--models-dir", default=str(Alone().models_dir), metavar="DIR",
                        help="the WebUI's models folder (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], nargs="+", metavar="key=value", help="change a setting")
    parser.add_argument("--concepts", metavar="FILE.json", help="a list of concepts")


def _add_lora(parser: argparse.ArgumentParser, default: float | None) -> None:
    parser.add_argument("--lora", metavar="FILE")
    parser.add_argument("--lora-weight", type=float, default=default, metavar="X")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _folders(args: argparse.Namespace) -> Folders:
    return Folders(Path(args.models_dir))


def _model(args: argparse.Namespace) -> ModelFolder:
    return ModelFolder(_folders(args), args.name)


def _config(args: argparse.Namespace, model: ModelFolder) -> Any:
    """The saved parameters with --set and --concepts laid over them; all that is wrong is said at once."""
    problems: list[str] = []
    overrides = {}
    for item in (item for group in args.set for item in group):
        key, equals, value = item.partition("=")
        if not equals:
            problems.append(f"--set {item}: write it as key=value{nearest(key, SETTINGS)}.")
        overrides[key.strip()] = value.strip()
    concepts = None
    if args.concepts:
        try:
            concepts, ignored = read_concepts(args.concepts)
            for key in ignored:
                logging.getLogger("dreambooth").warning("concepts: %s has no effect yet", key)
        except UserError as error:
            problems += error.problems
    try:
        config = actions.configure(model, overrides, concepts)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError.several(problems)
    return config


# -- running --------------------------------------------------------------------------------------------------


def _in_job(what: str, work: Callable[[Controls], Any]) -> Any:
    """Run ``work`` in the job thread while this one listens to Ctrl-C: once cancels, twice stops at once."""
    job = jobs.start(what, work)
    previous = signal.signal(signal.SIGINT, lambda *_: _interrupt(job))
    try:
        while not job.wait(0.2):
            pass
    finally:
        signal.signal(signal.SIGINT, previous)
    if job.error:
        raise job.error
    return job.result


def _interrupt(job: Job) -> None:
    if not job.controls.cancelled:
        job.controls.cancel()
        how = "Stopping after this step, then saving." if job.what == "train" else "Stopping."
        print(f"\n{how} Press Ctrl-C again to stop at once.", file=sys.stderr)
        return
    job.controls.stop_now()
    # Files are replaced by renaming, so leaving in the middle of anything harms none of them.
    leave = threading.Timer(2.0, os._exit, (CANCELLED,))
    leave.daemon = True
    leave.start()


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str))
        return
    for key, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                print("  " + "  ".join(f"{k}: {v}" for k, v in row.items()))
        elif isinstance(value, (list, tuple)):
            print(f"{key}: {', '.join(map(str, value))}")
        else:
            print(f"{key}: {value}")


def _log_to_stderr() -> None:
    """Our own loggers only: the root logger belongs to whoever runs us."""
    logger = logging.getLogger("dreambooth")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.exc_info is None)  # tracebacks go to the log file
        logger.addHandler(handler)
        logger.propagate = False


def _log_traceback(args: argparse.Namespace) -> Path:
    import traceback

    folder = Path(args.models_dir) / "dreambooth"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "errors.log"
    with path.open("a", encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return path
