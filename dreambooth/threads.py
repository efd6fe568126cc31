"""OpenMP settings of our own processes. Never called in a WebUI, whose process is not ours."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let OpenMP threads sleep at barriers after a short spin, unless the user has set another OMP_WAIT_POLICY.

    Call it before torch is imported: the OpenMP library reads the variable when it is loaded.

    By default the threads spin. If other processes need the cores, each barrier then waits for a thread without a
    core, and a training step on the CPU takes many times as long. Both OpenMP libraries that torch ships with read this
    variable: libgomp, and Intel's, where it also sets KMP_BLOCKTIME to 0. In libgomp, passive alone does not spin at
    all, which costs time on an idle machine; GOMP_SPINCOUNT overrides it (figures: BENCHMARKS.md, "CPU threads").
    """
    if os.environ.setdefault("OMP_WAIT_POLICY", "passive").lower() == "passive":
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
