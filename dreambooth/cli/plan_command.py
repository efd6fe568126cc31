"""``plan``: what a run would be made of, before there is any model. The fields are described in docs/plan.md."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.cli.commands import chosen, folders, in_job
from dreambooth.cli.image_table import image_table
from dreambooth.cli.options import add_settings
from dreambooth.cli.truncation import line, shown
from dreambooth.errors import UserError
from dreambooth.files import expand_user
from dreambooth.settings import ModelFolder, Settings, parse
from dreambooth.terminal import ProgressBar


def add_plan(words: Any, word: Callable[..., Any]) -> None:
    """``word(words, name, run, help)`` makes the parser of one; see arguments.py."""
    parser = word(words, "plan", plan, "say what a run would be made of, picture by picture; no model is needed")
    parser.add_argument("path", metavar="PATH", help="a folder of pictures, a concepts list (.json) or a dataset.toml")
    parser.add_argument(
        "--model", metavar="NAME", help="the model to be trained: its tokenizer, memory, time, settings"
    )
    add_settings(parser)


def plan(args: argparse.Namespace, bar: ProgressBar) -> Any:
    """Settings are the defaults, or the model's; over them what lies at PATH says, then --set."""
    from dreambooth.interop.input_kind import recognize_input

    overrides, concepts, problems = chosen(args)
    found, settings, model = None, Settings(), None
    try:
        if args.model is not None:
            model = ModelFolder(folders(args), args.model).require()
            settings = model.load().settings
    except UserError as error:
        problems += error.problems
    try:
        found = recognize_input(expand_user(args.path))
    except UserError as error:
        problems += error.problems
    try:
        settings = parse(Settings, {**(found.settings if found else {}), **overrides}, base=settings)
    except UserError as error:
        problems += error.problems
    if problems or found is None:
        raise UserError.from_problems(problems)
    report = in_job(
        "plan",
        lambda controls: actions.images.look(
            concepts or found.with_pictures(), settings, model, progress=controls.cancellable(bar.show),
            known=folders(args).image_metadata_cache,
        ),
    )  # fmt: skip
    said = {"state": "done", **report.as_dict(), "taken": list(found.taken), "without": list(found.without)}
    return said if args.json else _readable(said)


def _readable(said: dict[str, Any]) -> str:
    totals = dict(said["totals"])
    buckets = totals.pop("buckets")
    notes = totals.pop("notes")
    lines = [f"{key.replace('_', ' ')}: {value}" for key, value in totals.items() if value is not None]
    lines += ["buckets: " + ", ".join(f"{'x'.join(map(str, b['size']))}: {b['pictures']}" for b in buckets)]
    lines += ["notes: " + ", ".join(f"{kind}: {n}" for kind, n in notes.items())] if notes else []
    for word in ("taken", "without"):
        lines += shown(said[word], lambda text, word=word: f"{word}: {line(text)}")
    lines += [f"warning: {line(text, 1000)}" for text in said["warnings"]]
    return "\n".join([*lines, "", image_table(said["pictures"], said["other_files"])])
