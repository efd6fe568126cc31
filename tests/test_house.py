"""The floors: a room imports only from floors below its own. And what a host must not notice of us."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dreambooth

PACKAGE = Path(dreambooth.__file__).parent
FLOORS = {
    "errors": 0, "files": 0, "settings": 0,
    "jobs": 1, "checkpoints": 1, "dataset": 1, "hosts": 1, "embedded": 1, "terminal": 1,
    "training": 2, "sampling": 2, "captioning": 2,
    "runs": 3,
    "actions": 4, "lora_actions": 4, "caption_actions": 4, "picture_actions": 4,
    "cli": 5, "ui": 5, "demo": 5, "__main__": 6,
}  # fmt: skip


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dreambooth"):
            rest = node.module.split(".")[1:]
            rooms |= {rest[0]} if rest else {alias.name for alias in node.names}
    return rooms & FLOORS.keys()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_from_floors_below(path):
    room = _room(path)
    if room == "__init__":
        return
    for other in _imports(path) - {room}:
        if {room, other} <= {"errors", "files", "settings"}:
            continue  # the ground floor is one
        assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"


QUIET = """
import logging, sys
handlers, level, path = list(logging.root.handlers), logging.root.level, list(sys.path)
import dreambooth.cli, dreambooth.actions, dreambooth.settings
assert "torch" not in sys.modules, "importing the doors loads torch"
import dreambooth.runs.report
assert "torch" not in sys.modules, "a look without a model loads torch"
assert (logging.root.handlers, logging.root.level, sys.path) == (handlers, level, path)
"""


def test_importing_us_is_light_and_leaves_no_trace():
    subprocess.run([sys.executable, "-c", QUIET], check=True)
