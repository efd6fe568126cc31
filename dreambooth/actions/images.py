"""Image folders and configurations of other trainers: prepare, import, export."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.actions.models import opened
from dreambooth.errors import UserError
from dreambooth.files import write_text
from dreambooth.paths import clean_path
from dreambooth.settings import Concept, ModelConfig, ModelFolder, Settings, parse
from dreambooth.types import ProgressCallback

if TYPE_CHECKING:
    from dreambooth.interop.input_kind import RecognizedInput
    from dreambooth.preparation.changes import ImageChange, Preparation
    from dreambooth.preparation.previews import Preview
    from dreambooth.settings.preparation import PrepareOptions


def import_configuration(model: ModelFolder, path: Path, config: ModelConfig | None = None) -> dict[str, Any]:
    """Import a file or folder into the model's parameters, or into ``config``, and save them.

    A dataset.toml, a training configuration, a concepts list, or a folder of images; see
    :func:`dreambooth.interop.input_kind.recognize_input`. Returns what was imported ("taken") and what is not
    supported ("without"). The parameters from before are backed up.
    """
    from dreambooth.interop.input_kind import recognize_input

    before = opened(model).load()
    found, config = recognize_input(clean_path(path)), config or before
    if found.image_problems:
        raise UserError.from_problems(found.image_problems)
    missing = require_images(found.concepts)
    if not found.concepts and not found.settings:
        raise UserError.from_problems([f"{path}: there is nothing to import.", *found.unsupported])
    settings = parse(Settings, found.settings, base=config.settings)
    if found.dim_from_weights:
        found = _with_lora_shape(found, model, settings)
        settings = parse(Settings, found.settings, base=config.settings)
    model.back_up(before.info.revision)
    model.save(dataclasses.replace(config, settings=settings, concepts=found.concepts or config.concepts))
    return {
        "concepts": len(found.concepts),
        "settings": dict(found.settings),
        "taken": list(found.imported),
        "without": [*missing, *found.unsupported],
    }


def require_images(concepts: Sequence[Concept]) -> list[str]:
    """A message for each concept without images. UserError if no concept has any: then nothing is imported."""
    from dreambooth.images.listing import find_images

    problems = []
    for number, concept in enumerate(concepts, 1):
        if concept.metadata_file.strip():  # it may list images anywhere
            continue
        name, folder = f"Concept {number}, instance_data_dir", concept.instance_data_dir.strip()
        try:
            if not folder or not find_images(clean_path(folder)):
                problems.append(f"{name}: {folder} contains no images." if folder else f"{name} is empty.")
        except UserError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if concepts and len(problems) >= len(concepts):
        raise UserError.from_problems(["There are no images to train, so nothing was imported.", *problems])
    return problems


def _with_lora_shape(found: RecognizedInput, model: ModelFolder, settings: Settings) -> RecognizedInput:
    """dim_from_weights: type, ranks and alphas of the adapters are those of the LoRA that training starts from."""
    from dreambooth.training.init_from_lora import settings_from_lora

    needed, problems = settings_from_lora(model, settings)
    return dataclasses.replace(
        found,
        settings={**found.settings, **needed},
        imported=(*found.imported, *(f"dim_from_weights -> {key} = {value!r}" for key, value in needed.items())),
        unsupported=(*found.unsupported, *(f"dim_from_weights: {problem}" for problem in problems)),
    )


def export_toml(config: ModelConfig, out: Path) -> dict[str, Any]:
    """Write concepts and settings as a dataset.toml for sd-scripts, under an unused name."""
    from dreambooth.interop.kohya.export import export_dataset
    from dreambooth.training.results import unused_path

    text, unsupported = export_dataset(config.concepts, config.settings)
    path = unused_path(clean_path(out))
    write_text(path, text)
    return {"path": str(path), "without": unsupported}


def prepare(
    folder: str | Path, options: PrepareOptions, *, dry_run: bool = False, progress: ProgressCallback | None = None
) -> Preparation:
    """Prepare the images of a folder; a dry run only returns what would be done.

    Originals are not changed. With ``options.in_place`` they are replaced, and kept for :func:`undo_preparation`.
    """
    from dreambooth.preparation.in_place_undo import replace_originals, require_no_interrupted
    from dreambooth.preparation.output_folder import write_new_folder
    from dreambooth.preparation.planning import plan_preparation

    if not str(folder).strip():
        raise UserError("Enter the folder that holds the images.")
    require_no_interrupted(clean_path(folder))
    planned = plan_preparation(clean_path(folder), options, progress)
    if dry_run:
        return planned
    return (replace_originals if options.in_place else write_new_folder)(planned, progress)


def preview_preparation(preparation: Preparation, count: int) -> list[tuple[ImageChange, Preview]]:
    """Before and after of the first ``count`` images; unreadable ones are left out."""
    from dreambooth.preparation.previews import make_preview

    previews = []
    for change in preparation.changes[:count]:
        with contextlib.suppress(UserError):
            previews.append((change, make_preview(change, preparation.options)))
    return previews


def undo_preparation(folder: str | Path) -> dict[str, Any]:
    """Restore the originals of the last preparation in place."""
    from dreambooth.preparation.in_place_undo import undo

    undone = undo(clean_path(folder))
    return {
        "restored": undone.restored,
        "removed": undone.removed,
        "set_aside": [str(path) for path in undone.set_aside],
    }
