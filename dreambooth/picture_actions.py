"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.files import expand, write_text
from dreambooth.settings import ModelConfig, ModelFolder, Settings, parse

if TYPE_CHECKING:
    from dreambooth.runs.report import Report
    from dreambooth.settings import Concept

Progress = Callable[[int, int, str], None]


def look(
    concepts: Sequence[Concept],
    settings: Settings,
    model: ModelFolder | None = None,
    device: Any = None,
    progress: Progress | None = None,
    known: Path | None = None,
) -> Report:
    """What a run of these concepts and settings would be made of; with ``model``, what it would cost too.

    ``known``: a file that keeps what is read of the pictures, as :attr:`Folders.known_pictures`; nothing else is
    written. It may go on beside anything else.
    """
    from dreambooth.runs.report import report

    return report(concepts, settings, model.require() if model else None, device, progress, known)


def take_over(model: ModelFolder, path: Path, config: ModelConfig | None = None) -> dict[str, Any]:
    """Lay what stands in a file or folder over the model's parameters, or over ``config``, and save that.

    A dataset.toml, a training's parameters, a concepts list, a folder: see :func:`dreambooth.dataset.found.found_at`.
    The answer says what was taken and what has no counterpart here. The parameters from before are among the backups.
    """
    from dreambooth.dataset.found import found_at

    before = model.require().load()
    found, config = found_at(expand(path)), config or before
    settings = parse(Settings, found.settings, base=config.settings)
    model.back_up(before.facts.revision)
    model.save(dataclasses.replace(config, settings=settings, concepts=found.concepts or config.concepts))
    return {
        "concepts": len(found.concepts),
        "settings": dict(found.settings),
        "taken": list(found.taken),
        "without": list(found.without),
    }


def export_toml(config: ModelConfig, out: Path) -> dict[str, Any]:
    """Write a model's concepts and settings as a dataset.toml for kohya's sd-scripts, under a name that is free."""
    from dreambooth.dataset.kohya.export import exported
    from dreambooth.training.results import free_path

    text, without = exported(config.concepts, config.settings)
    path = free_path(expand(out))
    write_text(path, text)
    return {"path": str(path), "without": without}
