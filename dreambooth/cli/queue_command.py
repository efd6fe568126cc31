"""``queue``: training runs that are run one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from dreambooth import actions
from dreambooth.actions import queue
from dreambooth.cli.commands import folders, overrides_of
from dreambooth.cli.in_job import in_job
from dreambooth.cli.options import add_settings
from dreambooth.errors import UserError
from dreambooth.settings import ModelFolder
from dreambooth.terminal import ProgressBar


def add_commands(subparsers: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    whole = subparsers.add_parser(
        "queue", help="train several models one after the other: add, list, move, remove, run"
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    parser = add(commands, "add", _add, "add a training run with the model's settings as they are now")
    parser.add_argument("name", metavar="NAME", help="name of the model")
    add_settings(parser)
    add(commands, "list", _list, "list the jobs of the queue with their states")
    parser = add(commands, "move", _move, "move a waiting job")
    parser.add_argument("id", type=int, metavar="JOB", help="number of the job")
    parser.add_argument("place", type=int, metavar="PLACE", help="its new place among the waiting jobs; 1 is next")
    parser = add(commands, "remove", _remove, "remove a job, or cancel it if it is running")
    parser.add_argument("id", type=int, metavar="JOB", help="number of the job")
    parser = add(
        commands, "run", _run, "run all waiting jobs; Ctrl-C cancels the running one and leaves the others waiting"
    )
    parser.add_argument("--hang-minutes", type=float, default=queue.HANG_MINUTES, metavar="N",
                        help="kill a job that reports nothing for so many minutes (default: %(default)g)")  # fmt: skip
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)  # in the process of a job


def _add(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    model = ModelFolder(folders(args), args.name)
    overrides, concepts, problems = overrides_of(args)
    if problems:
        raise UserError.from_problems(problems)
    return queue.add(model, actions.configure(model, overrides, concepts)).summary()


def _list(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    jobs = queue.files_of(folders(args)).jobs()
    if args.json:
        return {"state": "done", "jobs": [job.summary() for job in jobs]}
    lines = [f"{job.id:>4}  {job.state:<10}  {job.model}  {job.text}".rstrip() for job in jobs]
    return "\n".join(lines) or "The queue is empty."


def _move(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any] | str:
    queue.move(folders(args), args.id, args.place)
    return _list(args, bar)


def _remove(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    return {"state": "done", "message": queue.remove(folders(args), args.id)}


def _run(args: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    if args.hang_minutes <= 0:
        raise UserError("--hang-minutes must be more than 0.")
    if args.job is not None:
        queue.run_job(folders(args), args.job)
        return {}
    ended = in_job("queue", lambda controls: queue.run(folders(args), controls, bar.line, args.hang_minutes))
    return {"state": "done", "jobs": [job.summary() for job in ended]}
