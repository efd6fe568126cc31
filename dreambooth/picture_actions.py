"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import Cancelled, UserError
from dreambooth.files import expand
from dreambooth.settings import Folders
from dreambooth.settings.tagging import CPU, Tagging

if TYPE_CHECKING:
    from dreambooth.captioning.answers import Captioner
    from dreambooth.captioning.work import Captioned
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


def tag(
    folders: Folders,
    source: str | Path,
    options: Tagging,
    *,
    limit: int | None = None,
    write: bool = True,
    device: Any = None,
    borrow_gpu: Callable[[], Any] | None = None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Have a model write captions for the pictures of a folder, or of what else stands for some (see found.py).

    ``limit``: look at so many pictures only, spread over all; without ``write`` no file is touched, and what would
    have been written is in ``captions``. What was written before Cancel stays; ``state`` says "cancelled" then.
    ``borrow_gpu``: the host's context manager that frees the GPU for us and takes it back afterwards.
    """
    from dreambooth.captioning import finding, work
    from dreambooth.captioning.answers import Counted
    from dreambooth.captioning.loading import ask_model
    from dreambooth.hosts.alone import best_device

    counted, rows, state = Counted(), [], "done"
    wanted = {folder: work.wanted_in(folder, options, counted) for folder in _folders_of(source)}
    wanted = work.spread(wanted, limit)

    def ask(captioner: Captioner) -> None:
        counted.notes += captioner.notes
        for folder, its in wanted.items():
            found = work.captioned(captioner, its, options, counted, progress)
            if write:
                work.write_all(folder, found, counted, f"tagged with {options.model.strip()}")
            else:
                rows.extend(map(_row, found))

    if wanted:
        path = finding.located(options.model, folders.models, options.token, progress)
        on = "cpu" if options.device == CPU else device or best_device()
        try:
            ask_model(path, options, on, borrow_gpu, progress, ask)
        except Cancelled:
            state = "cancelled"
    return {"state": state, "model": options.model.strip(), **dataclasses.asdict(counted), "captions": rows}


def _folders_of(source: str | Path) -> list[Path]:
    """The folders of instance pictures that a path stands for, each once."""
    from dreambooth.dataset.found import found_at

    if not str(source).strip():
        raise UserError("Give the folder with the pictures.")
    concepts = found_at(expand(str(source).strip())).concepts
    return list(dict.fromkeys(expand(concept.instance_data_dir) for concept in concepts))


def _row(one: Captioned) -> dict[str, Any]:
    tags = {tag.name: round(tag.score, 4) for tag in sorted(one.answer.tags, key=lambda tag: -tag.score)}
    return {"picture": str(one.wanted.picture), "caption": one.caption, "tags": tags}
