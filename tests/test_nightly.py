"""--end-within, as CI runs the nightly part: kill tests first, and no test that may not end in time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest
pytestmark = pytest.mark.nightly
@pytest.mark.parametrize("number", range(3))
def test_many(number): ...
@pytest.mark.nightly(minutes=10)
def test_long(): ...
def test_short(): ...
@pytest.mark.parametrize("number", range(4))
def test_killed_while_it_saves(number): ...
"""
KILLED = [f"killed_while_it_saves[{number}]" for number in range(4)]
OTHERS = ["long", "short", *(f"many[{number}]" for number in range(3))]


@pytest.mark.parametrize(
    ("seconds", "skipped"), [(700, []), (400, ["long"]), (200, [*KILLED, *OTHERS]), (-100, [*KILLED, *OTHERS])]
)
def test_kill_tests_run_first_and_what_may_not_end_in_time_is_skipped(seconds, skipped, tmp_path):
    (tmp_path / "test_made.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "-m", "nightly", "-c", str(ROOT / "pyproject.toml"),
               "-p", "tests.conftest", "-p", "no:cacheprovider", "--end-within", str(seconds)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([*command, "test_made.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    results = dict(re.findall(r"::test_(\S+) (\w+)", run.stdout))
    assert list(results) == [*KILLED, *OTHERS]
    assert [name for name, result in results.items() if result == "SKIPPED"] == skipped
