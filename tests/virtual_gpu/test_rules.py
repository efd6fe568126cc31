"""The pretend GPU refuses what CUDA refuses, and counts synchronizations, copies and bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.virtual_gpu.device_guard import Unavailable, built_guard

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly(minutes=1)
def test_rules_of_the_pretend_gpu() -> None:
    try:
        built_guard()
    except Unavailable as reason:
        pytest.skip(str(reason))
    command = [sys.executable, "-m", "tools.virtual_gpu", "tests.virtual_gpu.rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("check_") == 11
