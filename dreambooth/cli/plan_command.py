"""``plan``: preview of the training data, without a model. docs/plan.md describes the JSON fields."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth.cli.commands import folders, overrides_of
from dreambooth.cli.image_table import image_table
from dreambooth.cli.in_job import in_job
from dreambooth.cli.options import add_settings
from dreambooth.cli.readable import label, with_unit
from dreambooth.cli.truncation import first_lines, truncated
from dreambooth.errors import UserError
from dreambooth.memory.planner import MemoryPlan
from dreambooth.paths import clean_path
from dreambooth.settings import ModelFolder, Settings, parse
from dreambooth.terminal import ProgressBar


def add_plan(subparsers: Any, add_command: Callable[..., Any]) -> None:
    """``add_command(subparsers, name, run, help)`` returns the parser of a new command; see arguments.py."""
    parser = add_command(
        subparsers, "plan", plan, "show each image with its final caption, bucket and warnings; needs no model"
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a folder of images, a concepts file (.json), a dataset.toml, or a file of another trainer",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the model to train; adds its settings, token counts, memory and time"
    )
    add_settings(parser)


def plan(args: argparse.Namespace, bar: ProgressBar) -> Any:
    """Settings: the defaults or the model's, overridden by those at PATH, then by --set."""
    from dreambooth.interop.input_kind import recognize_input
    from dreambooth.runs.data_report import preview_dataset

    overrides, concepts, problems = overrides_of(args)
    found, settings, model = None, Settings(), None
    try:
        if args.model is not None:
            model = ModelFolder(folders(args), args.model).require()
            settings = model.load().settings
    except UserError as error:
        problems += error.problems
    try:
        found = recognize_input(clean_path(args.path))
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
        lambda controls: preview_dataset(
            concepts or found.require_concepts(), settings, model, progress=controls.cancellable(bar.show),
            metadata_cache=folders(args).image_metadata_cache, plans_memory=True,
        ),
    )  # fmt: skip
    result = {"state": "done", **report.as_dict(), "taken": list(found.imported), "without": list(found.unsupported)}
    return result if args.json else _readable(result)


def _readable(result: dict[str, Any]) -> str:
    totals = dict(result["totals"])
    buckets = totals.pop("buckets")
    warning_counts = totals.pop("notes")
    if phases := totals.pop("memory_phases", None):
        totals["memory"] = MemoryPlan(phases, totals.pop("memory_is_estimate")).summary()
        del totals["memory_bytes"], totals["memory_highest"]
    lines = [f"{label(key)}: {with_unit(key, value)}" for key, value in totals.items() if value is not None]
    lines += ["buckets: " + ", ".join(f"{'x'.join(map(str, b['size']))}: {b['pictures']}" for b in buckets)]
    if warning_counts:
        lines += ["warnings: " + ", ".join(f"{kind}: {n}" for kind, n in warning_counts.items())]
    for key in ("taken", "without"):
        lines += first_lines(result[key], lambda text, key=key: f"{label(key)}: {truncated(text)}")
    lines += [f"warning: {truncated(text, 1000)}" for text in result["warnings"]]
    return "\n".join([*lines, "", image_table(result["pictures"], result["other_files"])])
