"""Runs a module on the pretend GPU: python -m tools.virtual_gpu MODULE ARGUMENTS..."""

from __future__ import annotations

import runpy
import sys

from tools.virtual_gpu.device_guard import Unavailable, load_guard


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        load_guard()
    except Unavailable as reason:
        sys.exit(str(reason))
    from tools.virtual_gpu.pretend_gpu import pretend_gpu

    del sys.argv[0]
    with pretend_gpu():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
