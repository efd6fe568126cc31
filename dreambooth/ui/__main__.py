"""``python -m dreambooth.ui``: serve the page on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dreambooth.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py ui", description="Serve the page on this machine.")
    parser.add_argument("--port", type=int, default=7861, help="port to serve on (default: 7861)")
    parser.add_argument("--models-dir", type=Path, help="a WebUI's models folder (default: ours)")
    arguments = parser.parse_args(argv)

    from dreambooth import ui  # after --help: Gradio takes seconds to import

    try:
        ui.serve(arguments.port, arguments.models_dir)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
