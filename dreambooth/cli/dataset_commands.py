"""Commands that work on images and captions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.cli import caption_commands
from dreambooth.cli.commands import folders
from dreambooth.cli.plan_command import add_plan
from dreambooth.cli.prepare_command import add_prepare
from dreambooth.cli.tag_command import add_tag
from dreambooth.paths import clean_path
from dreambooth.settings import ModelFolder
from dreambooth.terminal import ProgressBar


def add_commands(subparsers: Any, add_command: Callable[..., Any]) -> None:
    """``add_command(subparsers, name, run, help)`` returns the parser of a new command; see arguments.py."""
    add_plan(subparsers, add_command)

    importing = add_command(
        subparsers, "import-toml", import_toml, "import a configuration of another trainer into a model", ("import",)
    )
    importing.add_argument(
        "file",
        metavar="FILE",
        help="a file (TOML, JSON, YAML) of sd-scripts, kohya_ss, LoRA_Easy_Training_Scripts, lora-scripts, OneTrainer "
        "or ai-toolkit, a concepts file, or a folder of images",
    )
    importing.add_argument("name", metavar="NAME", help="name of an existing model")

    exporting = add_command(
        subparsers, "export-toml", export_toml, "export a model's concepts and settings as a dataset.toml"
    )
    exporting.add_argument("name", metavar="NAME", help="name of the model")
    exporting.add_argument("file", metavar="FILE.toml", help="the file to write")

    caption_commands.add_captions(subparsers, add_command)
    add_tag(subparsers, add_command)
    add_prepare(subparsers, add_command)


def import_toml(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    return {
        "state": "done",
        "model": args.name,
        **actions.images.import_configuration(_model(args), clean_path(args.file)),
    }


def export_toml(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    return {"state": "done", **actions.images.export_toml(_model(args).require().load(), clean_path(args.file))}


def _model(args: argparse.Namespace) -> ModelFolder:
    return ModelFolder(folders(args), args.name)
