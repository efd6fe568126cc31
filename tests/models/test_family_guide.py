"""The guide to a new family names hooks that exist, and all that a family must have."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from dreambooth.models.family import Family

GUIDE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
OPTIONAL = {"adapter_keys"}  # of families with an adapter format of their own


def test_the_guide_has_the_hooks_of_the_interface():
    section = GUIDE.read_text(encoding="utf-8").partition("## Add a model family")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    hooks = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert hooks <= vars(Family).keys()
    methods = {name: method for name, method in vars(Family).items() if inspect.isfunction(method)}
    required = {name for name, method in methods.items() if "raise NotImplementedError" in inspect.getsource(method)}
    assert required - OPTIONAL <= hooks
    attributes = {name for name in Family.__annotations__ if name not in vars(Family)}
    assert attributes and all(f"`{name}`" in section for name in attributes)
