"""``python -m dreambooth COMMAND ...``."""

import sys

from dreambooth.allocator import use_expandable_segments
from dreambooth.threads import wait_passively


def main() -> int:
    command, rest = sys.argv[1:2], sys.argv[2:]
    if command == ["demo"]:
        from dreambooth.demo import main as demo

        return demo(rest)
    if command == ["ui"]:
        from dreambooth.ui.__main__ import main as ui

        return ui(rest)
    from dreambooth.cli import main as command_line

    return command_line()


wait_passively()
use_expandable_segments()
sys.exit(main())
