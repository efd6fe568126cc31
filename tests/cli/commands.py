"""Running the command line: within the test's own process, as a fork, or as an ordinary new process."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from dreambooth.cli import main
from tests import fork_server

RUN = ("-m", "dreambooth")


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """``python -m dreambooth ARGS`` as a function call, for what a command says and does.

    Each command is also run by :func:`run_fork` at least once: there nothing is imported or set up by others.
    """
    words = [str(arg) for arg in args]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    logger = logging.getLogger("dreambooth")
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.handlers.clear()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            try:
                code = main(words)
            except SystemExit as exit:  # argparse
                code = exit.code if isinstance(exit.code, int) else 1
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
    texts = [stream.buffer.getvalue().decode("utf-8", "backslashreplace") for stream in (out, err)]
    return subprocess.CompletedProcess(words, code, *texts)


def start(*args: object, **more: Any) -> Any:
    """The same as a process that can be killed: see :class:`fork_server.Process`."""
    return fork_server.start(*RUN, *args, **more)


def run_fork(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """The same as a process, to its end."""
    return fork_server.run(*RUN, *args, **more)


def run_process(*args: object) -> subprocess.CompletedProcess[str]:
    """The same as an ordinary process, as people start it. It spends most of its time importing."""
    return subprocess.run([sys.executable, *RUN, *map(str, args)], capture_output=True, text=True)


def wait_for_step(model: Path, n: int, process: Any) -> None:
    """Wait until the log on disk of the run in ``process`` contains step ``n``."""
    while not any(f'"step": {n},' in log.read_text() for log in model.glob("logging/run_*.jsonl")):
        assert process.poll() is None, f"the run ended before step {n}: {process.communicate()}"
        time.sleep(0.01)
