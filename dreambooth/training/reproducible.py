"""The same numbers each time, also on a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS is reproducible only with workspaces of its own, see torch's notes


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Only algorithms that give the same bits each time; afterwards all is as the host had it.

    An operation that has none is done all the same, and torch warns of it.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    were = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    workspace = os.environ.get(_CUBLAS)
    try:
        os.environ[_CUBLAS] = ":4096:8"
        torch.use_deterministic_algorithms(True, warn_only=True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = flags
        torch.use_deterministic_algorithms(were[0], warn_only=were[1])
        if workspace is None:
            os.environ.pop(_CUBLAS, None)
        else:
            os.environ[_CUBLAS] = workspace
