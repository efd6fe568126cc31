"""``prepare``: pictures made ready, by the settings of settings/preparation.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.cli.commands import in_job
from dreambooth.cli.options import add_option
from dreambooth.errors import UserError
from dreambooth.settings import parse
from dreambooth.settings.preparation import PREPARE_OPTIONS, PrepareOptions
from dreambooth.terminal import ProgressBar


def add_prepare(words: Any, word: Callable[..., Any]) -> None:
    """``word(words, name, run, help)`` makes the parser of one; see arguments.py."""
    parser = word(words, "prepare", prepare, "make pictures ready: crop, resize, rename, convert; originals stay")
    parser.add_argument("folder", metavar="FOLDER")
    for setting in PREPARE_OPTIONS.values():
        add_option(parser, setting)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done to each picture, do nothing")
    parser.add_argument("--undo", action="store_true", help="bring back the originals of the last --in-place")


def prepare(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    given = {key: getattr(args, key) for key in PREPARE_OPTIONS if getattr(args, key) is not None}
    if args.undo:
        if given or args.dry_run:
            raise UserError("--undo takes no other option: it brings back what the last --in-place replaced.")
        return {"state": "done", **actions.images.undo_preparation(args.folder)}
    options = parse(PrepareOptions, given)
    idle = [PREPARE_OPTIONS[key] for key in given if not PREPARE_OPTIONS[key].applies_to(vars(options))]
    if idle:
        raise UserError.from_problems(
            f"--{setting.key.replace('_', '-')} has no effect with these options (only when {setting.applies}): "
            "leave it out."
            for setting in idle
        )
    prepared = in_job(
        "prepare",
        lambda controls: actions.images.prepare(
            args.folder, options, dry_run=args.dry_run, progress=controls.cancellable(bar.show)
        ),
    )
    return {"state": "dry run" if args.dry_run else "done", **prepared.as_dict()}
