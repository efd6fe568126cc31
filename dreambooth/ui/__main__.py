"""``python -m dreambooth.ui``: serve the page on this machine."""

from __future__ import annotations

import argparse
import sys

from dreambooth.allocator import use_expandable_segments
from dreambooth.errors import UserError
from dreambooth.paths import clean_path
from dreambooth.threads import wait_passively


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="launch.py ui", description="Serve the page on this machine.")
    parser.add_argument("--port", type=int, default=7861, help="port to serve on (default: 7861)")
    parser.add_argument("--models-dir", metavar="DIR", help="models folder, for example of a WebUI (default: models/)")
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="address to serve on; requires --auth")
    parser.add_argument("--auth", default="", metavar="NAME:PASSWORD", help="login required to open the page")
    parser.add_argument(
        "--share", action="store_true", help="create a public link through Gradio's servers; requires --auth"
    )
    parser.add_argument(
        "--language", choices=("auto", "en", "zh"), default="auto", help="language of the page (default: the browser's)"
    )
    args = parser.parse_args(argv)

    from dreambooth import ui  # not for --help: Gradio takes seconds to import

    try:
        models_dir = clean_path(args.models_dir) if args.models_dir else None
        ui.serve(args.port, models_dir, args.listen, args.share, args.auth, args.language)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    wait_passively()
    use_expandable_segments()
    sys.exit(main())
