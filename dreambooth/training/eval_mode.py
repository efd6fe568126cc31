"""Modules in eval mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn


@contextlib.contextmanager
def eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """In the block the modules are in eval mode; afterwards each is in the mode that it had."""
    modes = {module: module.training for module in modules}
    try:
        for module in modes:
            module.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.train(mode)
