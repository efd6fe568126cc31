"""``snapshots``: list the snapshots of a model, and what an interrupted run can be resumed from."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth.cli.commands import folders
from dreambooth.runs.interrupted import interrupted_run
from dreambooth.settings import ModelFolder
from dreambooth.terminal import ProgressBar
from dreambooth.training.snapshot_list import list_snapshots


def add_command(subparsers: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    parser = add(subparsers, "snapshots", run, "list the snapshots of a model, newest first, and what can be resumed")
    parser.add_argument("name", metavar="NAME", help="name of the model")


def run(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    model = ModelFolder(folders(args), args.name).require()
    snapshots, interrupted = list_snapshots(model), interrupted_run(model)
    if args.json:
        found = interrupted and {"step": interrupted.step, "snapshot": interrupted.snapshot.name}
        return {"state": "done", "snapshots": snapshots.as_dicts(), "interrupted": found}
    lines = [interrupted.summary(model.name)] if interrupted else []
    if not snapshots.entries:
        return "\n".join([*lines, f"{model.name} has no snapshots."])
    title = f"Snapshots of {model.name}, newest first. --resume NAME continues the one of this name"
    latest = f"; --resume continues {snapshots.newest.name}:" if snapshots.newest else ":"
    return "\n".join([*lines, title + latest, *(f"  {snapshots.describe(entry)}" for entry in snapshots.entries)])
