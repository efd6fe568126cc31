"""Modules in eval mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn

from dreambooth.training.compiled_blocks import without_compiled_code


@contextlib.contextmanager
def eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """In the block the modules are in eval mode, without compiled code; afterwards each is as it was."""
    modes = {module: module.training for module in modules}
    try:
        for module in modes:
            module.eval()
        with without_compiled_code(modes):
            yield
    finally:
        for module, mode in modes.items():
            module.train(mode)
