"""How the CPU threads of a process that is ours alone wait. Never called in a WebUI, whose process is not ours."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let OpenMP's threads sleep where they wait for each other. What the user set stays.

    Call it before torch is imported: the library reads the variable once, when it is loaded.

    By default they spin. While other processes need the cores, each barrier then waits for a thread that has no core,
    and a training step on the CPU takes many times as long. Both libraries that torch comes with read this variable:
    libgomp, and Intel's, where it also makes KMP_BLOCKTIME 0. GOMP_SPINCOUNT and KMP_BLOCKTIME override it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
