"""``tag``: auto-captioning."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.cli.commands import folders
from dreambooth.cli.in_job import in_job
from dreambooth.cli.options import add_option
from dreambooth.cli.truncation import first_lines, truncated
from dreambooth.settings import parse
from dreambooth.settings.tagging import TAG_OPTIONS, TagOptions
from dreambooth.terminal import ProgressBar


def add_tag(subparsers: Any, add_command: Callable[..., Any]) -> None:
    """``add_command(subparsers, name, run, help)`` returns the parser of a new command; see arguments.py."""
    parser = add_command(subparsers, "tag", tag, "caption the images of a folder with a tagger or captioner")
    parser.add_argument(
        "path", metavar="FOLDER", help="folder with images; or a concepts file (.json) or a dataset.toml"
    )
    for setting in TAG_OPTIONS.values():
        add_option(parser, setting)
    parser.add_argument("--limit", type=int, metavar="N", help="caption only N images, spread evenly over the folder")
    parser.add_argument("--dry-run", action="store_true", help="only print the captions")


def tag(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    given = {key: getattr(args, key) for key in TAG_OPTIONS if getattr(args, key) is not None}
    options = parse(TagOptions, given)
    result = in_job(
        "tag",
        lambda controls: actions.captions.tag(
            folders(args), args.path, options, limit=args.limit, write=not args.dry_run,
            progress=controls.cancellable(bar.show),
        ),
    )  # fmt: skip
    if not args.json:
        for warning in first_lines(result.pop("notes"), truncated):
            bar.line(warning)
    return result
