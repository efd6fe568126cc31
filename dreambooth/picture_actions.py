"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreambooth.runs.report import Report
    from dreambooth.settings import Concept, ModelFolder, Settings

Progress = Callable[[int, int, str], None]


def look(
    concepts: Sequence[Concept],
    settings: Settings,
    model: ModelFolder | None = None,
    device: Any = None,
    progress: Progress | None = None,
) -> Report:
    """What a run of these concepts and settings would be made of; with ``model``, what it would cost too.

    Nothing is written; it may go on beside anything else.
    """
    from dreambooth.runs.report import report

    return report(concepts, settings, model.require() if model else None, device, progress)
