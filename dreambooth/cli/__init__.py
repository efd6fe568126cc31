"""The command line: ``python -m dreambooth COMMAND ...``. Results on standard output, all else on standard error.

Exit codes: 0 done (also a resume that has nothing left to train), 1 refused with one line per problem, 130 canceled by
Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreambooth.cli.arguments import parser
from dreambooth.cli.commands import train
from dreambooth.cli.in_job import CANCELLED
from dreambooth.cli.options import unknown_option_hint
from dreambooth.cli.readable import label, with_unit
from dreambooth.cli.truncation import first_lines, truncated
from dreambooth.distributed import ProcessGroup
from dreambooth.errors import Cancelled, UserError
from dreambooth.paths import clean_path
from dreambooth.terminal import ProgressBar
from dreambooth.text import escape_unprintable

DONE, REFUSED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    whole = parser()
    args, unknown = whole.parse_known_args(argv)
    if unknown:
        hint = unknown_option_hint(unknown) if hasattr(args, "set") and args.command != "captions" else ""
        whole.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if ProcessGroup.from_environment().rank:  # only the main process prints
        if args.run is not train:
            return DONE
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (open until the process exits)
    bar = ProgressBar()
    _log_to_stderr()
    warnings.simplefilter("ignore")  # this process is ours: anything users should know is printed by us
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="backslashreplace")  # file names may be undecodable
    try:
        result = args.run(args, bar)
        bar.end()
        with contextlib.suppress(BrokenPipeError):  # the reader of our output has exited
            _print(result, args.json)
        return CANCELLED if isinstance(result, dict) and result.get("state") == "cancelled" else DONE
    except (Cancelled, KeyboardInterrupt):
        bar.end()
        print("Canceled.", file=sys.stderr)
        return CANCELLED
    except UserError as error:
        bar.end()
        if error.__cause__:
            _log_traceback(args)
        if args.json:
            print(json.dumps({"state": "refused", "problems": error.problems}, ensure_ascii=False))
        for problem in first_lines(error.problems, escape_unprintable):
            print(f"dreambooth: {problem}", file=sys.stderr)
        return REFUSED
    except Exception as error:
        bar.end()
        path = _log_traceback(args)
        print(f"dreambooth: unexpected {type(error).__name__}: {error} (traceback in {path})", file=sys.stderr)
        return REFUSED


def _print(result: dict[str, Any] | str, as_json: bool) -> None:
    if isinstance(result, str):
        print(result)
        return
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str))
        return
    for key, value in result.items():
        if isinstance(value, str) and "\n" in value:
            print(f"{label(key)}:\n{value}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for row in first_lines(value, lambda row: "  ".join(f"{label(k)}: {truncated(v)}" for k, v in row.items())):
                print(f"  {row}")
        elif isinstance(value, (list, tuple)) and any(" " in str(item) for item in value):  # sentences
            print("\n  ".join([f"{label(key)}:", *first_lines(value, truncated)]))
        elif isinstance(value, (list, tuple)):
            print(f"{label(key)}: {', '.join(first_lines(value, truncated))}")
        elif isinstance(value, dict):
            print(f"{label(key)}: {'; '.join(f'{label(name)}: {inner}' for name, inner in value.items())}")
        else:
            print(f"{label(key)}: {with_unit(key, value)}")


def _log_to_stderr() -> None:
    """Our own logger only: the root logger belongs to the host."""
    logger = logging.getLogger("dreambooth")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.exc_info is None)  # tracebacks go to the log file
        logger.addHandler(handler)
        logger.propagate = False


def _log_traceback(args: argparse.Namespace) -> Path:
    """Append the traceback to errors.log in the models folder, or in the temporary folder if that isn't writable."""
    for folder in (clean_path(args.models_dir) / "dreambooth", Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "errors.log"
            with path.open("a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
            return path
    return Path("no log: no folder is writable")
