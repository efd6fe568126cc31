"""What can be done with pictures and captions, one function each; beside :mod:`dreambooth.actions`, for the same
callers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.files import expand_user, write_text
from dreambooth.settings import ModelConfig, ModelFolder, Settings, parse
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.interop.input_kind import RecognizedInput
    from dreambooth.preparation.changes import Change, Preparation
    from dreambooth.preparation.previews import Preview
    from dreambooth.runs.data_report import DataReport
    from dreambooth.settings import Concept
    from dreambooth.settings.preparation import PrepareOptions


def look(
    concepts: Sequence[Concept],
    settings: Settings,
    model: ModelFolder | None = None,
    device: Any = None,
    progress: ProgressCallback | None = None,
    known: Path | None = None,
) -> DataReport:
    """What a run of these concepts and settings would be made of; with ``model``, what it would cost too.

    ``known``: a file that keeps what is read of the pictures, as :attr:`Folders.image_metadata_cache`; nothing else is
    written. It may go on beside anything else.
    """
    from dreambooth.runs.data_report import report

    return report(concepts, settings, model.require() if model else None, device, progress, known)


def import_configuration(model: ModelFolder, path: Path, config: ModelConfig | None = None) -> dict[str, Any]:
    """Lay what stands in a file or folder over the model's parameters, or over ``config``, and save that.

    A dataset.toml, a training's parameters, a concepts list, a folder: see
    :func:`dreambooth.interop.input_kind.recognize_input`.
    The answer says what was taken and what has no counterpart here. The parameters from before are among the backups.
    """
    from dreambooth.interop.input_kind import recognize_input

    before = model.require().load()
    found, config = recognize_input(expand_user(path)), config or before
    settings = parse(Settings, found.settings, base=config.settings)
    if found.dim_from_weights:
        found = _with_sizes_of_start(found, model, settings)
        settings = parse(Settings, found.settings, base=config.settings)
    model.back_up(before.info.revision)
    model.save(dataclasses.replace(config, settings=settings, concepts=found.concepts or config.concepts))
    return {
        "concepts": len(found.concepts),
        "settings": dict(found.settings),
        "taken": list(found.taken),
        "without": list(found.without),
    }


def _with_sizes_of_start(found: RecognizedInput, model: ModelFolder, settings: Settings) -> RecognizedInput:
    """dim_from_weights: the adapters' type, ranks and alphas as the LoRA has them that training starts from."""
    from dreambooth.training.init_from_lora import settings_from_lora

    needed, problems = settings_from_lora(model, settings)
    return dataclasses.replace(
        found,
        settings={**found.settings, **needed},
        taken=(*found.taken, *(f"dim_from_weights -> {key} = {value!r}" for key, value in needed.items())),
        without=(*found.without, *(f"dim_from_weights: {problem}" for problem in problems)),
    )


def export_toml(config: ModelConfig, out: Path) -> dict[str, Any]:
    """Write a model's concepts and settings as a dataset.toml for kohya's sd-scripts, under a name that is free."""
    from dreambooth.interop.kohya.export import exported
    from dreambooth.training.results import unused_path

    text, without = exported(config.concepts, config.settings)
    path = unused_path(expand_user(out))
    write_text(path, text)
    return {"path": str(path), "without": without}


def prepare(
    folder: str | Path, options: PrepareOptions, *, dry_run: bool = False, progress: ProgressCallback | None = None
) -> Preparation:
    """Prepare the pictures of a folder as chosen; a dry run only says what would be done.

    Originals are not touched, unless ``options.in_place``: then they are kept, see :func:`undo_preparation`.
    """
    from dreambooth.preparation.in_place_undo import replace_originals, require_settled
    from dreambooth.preparation.output_folder import into_new_folder
    from dreambooth.preparation.planning import plan

    if not str(folder).strip():
        raise UserError("The folder is empty: give the one with the pictures.")
    require_settled(expand_user(folder))
    planned = plan(expand_user(folder), options, progress)
    if dry_run:
        return planned
    return (replace_originals if options.in_place else into_new_folder)(planned, progress)


def preview_preparation(preparation: Preparation, count: int) -> list[tuple[Change, Preview]]:
    """Before and after of its first pictures; those that can't be read any more are left out."""
    from dreambooth.preparation.previews import preview

    previews = []
    for change in preparation.changes[:count]:
        with contextlib.suppress(UserError):
            previews.append((change, preview(change, preparation.options)))
    return previews


def undo_preparation(folder: str | Path) -> dict[str, Any]:
    """Bring back the originals of the last preparation in place."""
    from dreambooth.preparation.in_place_undo import undo

    undone = undo(expand_user(folder))
    return {
        "restored": undone.restored,
        "removed": undone.removed,
        "set_aside": [str(path) for path in undone.set_aside],
    }
