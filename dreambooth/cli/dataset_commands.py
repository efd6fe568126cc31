"""The words of the command line that work on pictures and captions: their arguments, and what they do."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreambooth import actions
from dreambooth.cli import caption_commands
from dreambooth.cli.commands import folders
from dreambooth.cli.plan_command import add_plan
from dreambooth.cli.prepare_command import add_prepare
from dreambooth.cli.tag_command import add_tag
from dreambooth.settings import ModelFolder
from dreambooth.terminal import ProgressBar


def add_words(words: Any, word: Callable[..., Any]) -> None:
    """``word(words, name, run, help)`` makes the parser of one; see arguments.py."""
    add_plan(words, word)

    take = word(words, "import-toml", import_toml, "take over a configuration of kohya's sd-scripts into a model")
    take.add_argument("file", metavar="FILE", help="a dataset.toml, a training's parameters; or a folder of pictures")
    take.add_argument("name", metavar="NAME", help="a model that was created")

    give = word(words, "export-toml", export_toml, "write a model's concepts and settings as a dataset.toml")
    give.add_argument("name", metavar="NAME")
    give.add_argument("file", metavar="FILE.toml")

    caption_commands.add_word(words, word)
    add_tag(words, word)
    add_prepare(words, word)


def import_toml(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    return {"state": "done", "model": args.name, **actions.images.import_configuration(_model(args), Path(args.file))}


def export_toml(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    return {"state": "done", **actions.images.export_toml(_model(args).require().load(), Path(args.file))}


def _model(args: argparse.Namespace) -> ModelFolder:
    return ModelFolder(folders(args), args.name)
