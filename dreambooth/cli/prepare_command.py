"""``prepare``: crop, resize, rename and convert images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.cli.in_job import in_job
from dreambooth.cli.options import add_option
from dreambooth.errors import UserError
from dreambooth.settings import parse
from dreambooth.settings.preparation import PREPARE_OPTIONS, PrepareOptions
from dreambooth.terminal import ProgressBar


def add_prepare(subparsers: Any, add_command: Callable[..., Any]) -> None:
    """``add_command(subparsers, name, run, help)`` returns the parser of a new command; see arguments.py."""
    parser = add_command(
        subparsers, "prepare", prepare, "crop, resize, rename and convert images; the originals are kept"
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder with the images")
    for setting in PREPARE_OPTIONS.values():
        add_option(parser, setting)
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done to each image")
    parser.add_argument("--undo", action="store_true", help="restore the originals of the last --in-place")


def prepare(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    given = {key: getattr(args, key) for key in PREPARE_OPTIONS if getattr(args, key) is not None}
    if args.undo:
        if given or args.dry_run:
            raise UserError("--undo takes no other option: it restores the originals of the last --in-place.")
        return {"state": "done", **actions.images.undo_preparation(args.folder)}
    options = parse(PrepareOptions, given)
    unused = [PREPARE_OPTIONS[key] for key in given if not PREPARE_OPTIONS[key].applies_to(vars(options))]
    if unused:
        raise UserError.from_problems(
            f"--{setting.key.replace('_', '-')} has no effect with these options (only if {setting.applies}). "
            "Remove it."
            for setting in unused
        )
    prepared = in_job(
        "prepare",
        lambda controls: actions.images.prepare(
            args.folder, options, dry_run=args.dry_run, progress=controls.cancellable(bar.show)
        ),
    )
    return {"state": "dry run" if args.dry_run else "done", **prepared.as_dict()}
