"""``python -m dreambooth.ui``: serve the page on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.threads import wait_passively


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py ui", description="Serve the page on this machine.")
    parser.add_argument("--port", type=int, default=7861, help="port to serve on (default: 7861)")
    parser.add_argument("--models-dir", type=Path, help="a WebUI's models folder (default: ours)")
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="address to serve on; needs --auth")
    parser.add_argument("--auth", default="", metavar="NAME:PASSWORD", help="asked of everyone who opens the page")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers; needs --auth")
    given = parser.parse_args(argv)

    from dreambooth import ui  # after --help: Gradio takes seconds to import

    try:
        ui.serve(given.port, given.models_dir, given.listen, given.share, given.auth)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    wait_passively()
    sys.exit(main())
