"""``tag``: captions by a model that looks at the pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.cli.commands import folders, in_job
from dreambooth.cli.options import add_option
from dreambooth.cli.truncation import line, shown
from dreambooth.settings import parse
from dreambooth.settings.tagging import TAG_OPTIONS, TagOptions
from dreambooth.terminal import ProgressBar


def add_tag(words: Any, word: Callable[..., Any]) -> None:
    """``word(words, name, run, help)`` makes the parser of one; see arguments.py."""
    parser = word(words, "tag", tag, "have a model write captions for the pictures of a folder")
    parser.add_argument("path", metavar="FOLDER", help="with pictures; or a concepts list (.json) or a dataset.toml")
    for setting in TAG_OPTIONS.values():
        add_option(parser, setting)
    parser.add_argument("--limit", type=int, metavar="N", help="look at so many pictures only, taken from all over")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")


def tag(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    given = {key: getattr(args, key) for key in TAG_OPTIONS if getattr(args, key) is not None}
    options = parse(TagOptions, given)
    told = in_job(
        "tag",
        lambda controls: actions.captions.tag(
            folders(args), args.path, options, limit=args.limit, write=not args.dry_run,
            progress=controls.cancellable(bar.show),
        ),
    )  # fmt: skip
    if not args.json:
        for note in shown(told.pop("notes"), line):
            bar.line(note)
    return told
