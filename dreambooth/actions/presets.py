"""Presets of settings: list, show, apply, save, import, export."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dreambooth.actions.models import opened
from dreambooth.errors import UserError
from dreambooth.presets.changes import Change, apply, changes
from dreambooth.presets.own import all_presets, find_preset, save_preset
from dreambooth.presets.preset_file import Preset
from dreambooth.settings import Folders, ModelConfig, ModelFolder

if TYPE_CHECKING:
    from dreambooth.models.family import Family


def family_of(model: ModelFolder) -> Family:
    """The family of a model. UserError if this release does not know it."""
    from dreambooth.models.registry import find_family

    model_type = opened(model).load().info.model_type
    family = find_family(model_type)
    if family is None:
        raise UserError(f"{model.name} has the model type {model_type!r}, which this release does not know.")
    return family


def for_model(model: ModelFolder) -> list[Preset]:
    """The presets that a model of this family can have: the user's own first."""
    model_type = family_of(model).model_type
    return [preset for preset in all_presets(model.folders) if not preset.families or model_type in preset.families]


def preview(model: ModelFolder, config: ModelConfig, name: str) -> list[Change]:
    """What a preset would change."""
    return changes(find_preset(model.folders, name), family_of(model), config.settings)


def apply_preset(model: ModelFolder, name: str) -> list[Change]:
    """Change the saved settings of a model. Returns what has changed."""
    config = opened(model).load()
    preset, family = find_preset(model.folders, name), family_of(model)
    changed = changes(preset, family, config.settings)
    model.save(dataclasses.replace(config, settings=apply(preset, family, config.settings)))
    return changed


def save(model: ModelFolder, config: ModelConfig, name: str, replace: bool = False) -> Preset:
    """Save a model's settings as a preset for its family."""
    return save_preset(model.folders, name, config.settings, family_of(model).model_type, replace)


def described(folders: Folders, name: str, model: ModelFolder | None = None) -> Preset:
    """A preset as one file shows it: with the values for the model's family alone, if a model is given."""
    preset = find_preset(folders, name)
    if model is None:
        return preset
    family = family_of(model)
    from dreambooth.presets.changes import choices_for

    chosen = choices_for(preset, family, opened(model).load().settings)
    return dataclasses.replace(preset, families=(family.model_type,), settings=chosen, overrides=())
