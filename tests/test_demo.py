"""The demo as a new user runs it: the model learns the subject and preserves its other knowledge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth import embedded

pytestmark = pytest.mark.nightly(minutes=12)  # eight CPU minutes each


@pytest.mark.parametrize("family", embedded.MODELS)
def test_demo_learns_the_subject_and_preserves_the_prior(tmp_path, family):
    run = subprocess.run(
        [sys.executable, "-m", "dreambooth", "demo", "--family", family, "--out", str(tmp_path / "demo")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    outcome = json.loads(run.stdout.strip().splitlines()[-1])
    assert outcome["subject_before"] <= 0.2
    assert outcome["subject_after"] >= 0.8
    assert outcome["prior_after"] >= outcome["prior_before"] - 0.1
    assert len(outcome["samples"]) >= 80
    for path in (outcome["lora"], outcome["checkpoint"], outcome["sheet"], *outcome["samples"]):
        assert Path(path).stat().st_size > 0
