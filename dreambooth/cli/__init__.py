"""The command line: ``python -m dreambooth WORD ...``. Results on standard output, everything else on standard error.

Exit codes: 0 done, 1 refused with a line that says why, 130 cancelled.
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
from dreambooth.cli.commands import CANCELLED, train
from dreambooth.cli.truncation import line, shown
from dreambooth.distributed import ProcessGroup
from dreambooth.errors import Cancelled, UserError
from dreambooth.images.issues import named
from dreambooth.terminal import ProgressBar

DONE, REFUSED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = parser().parse_args(argv)
    if ProcessGroup.from_environment().rank:  # one of several processes: the first one does the talking
        if args.run is not train:
            return DONE
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
    bar = ProgressBar()
    _log_to_stderr()
    warnings.simplefilter("ignore")  # this process is ours; what people should know comes as a line of our own
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        result = args.run(args, bar)
        bar.end()
        with contextlib.suppress(BrokenPipeError):  # who read our output has gone
            _print(result, args.json)
        return CANCELLED if isinstance(result, dict) and result.get("state") == "cancelled" else DONE
    except (Cancelled, KeyboardInterrupt):
        bar.end()
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except UserError as error:
        bar.end()
        if error.__cause__:
            _log_traceback(args)
        if args.json:
            print(json.dumps({"state": "refused", "problems": error.problems}, ensure_ascii=False))
        for problem in shown(error.problems, named):
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
            print(f"{key}:\n{value}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for row in shown(value, lambda row: "  ".join(f"{k}: {line(v)}" for k, v in row.items())):
                print(f"  {row}")
        elif isinstance(value, (list, tuple)) and any(" " in str(item) for item in value):  # sentences
            print("\n  ".join([f"{key}:", *shown(value, line)]))
        elif isinstance(value, (list, tuple)):
            print(f"{key}: {', '.join(shown(value, line))}")
        elif isinstance(value, dict):
            print(f"{key}: {'; '.join(f'{name}: {inner}' for name, inner in value.items())}")
        else:
            print(f"{key}: {value}")


def _log_to_stderr() -> None:
    """Our own loggers only: the root logger belongs to whoever runs us."""
    logger = logging.getLogger("dreambooth")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.exc_info is None)  # tracebacks go to the log file
        logger.addHandler(handler)
        logger.propagate = False


def _log_traceback(args: argparse.Namespace) -> Path:
    """Append it to the log among the models, or to one for temporary files where that can't be written."""
    for folder in (Path(args.models_dir) / "dreambooth", Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "errors.log"
            with path.open("a", encoding="utf-8") as file:
                traceback.print_exc(file=file)
            return path
    return Path("nowhere: no folder can be written")
