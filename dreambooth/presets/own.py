"""The presets of users: files in a folder of their own, which are saved, imported, exported and deleted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.files import write_json
from dreambooth.presets.preset_file import Choice, Preset, is_personal, read_preset
from dreambooth.presets.shipped import shipped_presets
from dreambooth.settings import SETTINGS, Folders, Settings
from dreambooth.settings.names import clean_name, require_name
from dreambooth.text import nearest

EXTENSION = ".json"


def own_presets(folders: Folders) -> tuple[list[Preset], list[str]]:
    """(presets by name, problems of the files that can't be used)."""
    presets, problems = [], []
    for path in sorted(folders.presets.glob(f"[!.]*{EXTENSION}")):
        try:
            presets.append(read_preset(path, path.stem, is_own=True))
        except UserError as error:
            problems += error.problems
    return presets, problems


def all_presets(folders: Folders) -> list[Preset]:
    return [*own_presets(folders)[0], *shipped_presets()]


def find_preset(folders: Folders, name: str) -> Preset:
    """A preset by its name or title. UserError if there is none, or if its file can't be used."""
    name = (name or "").strip()
    path = folders.presets / f"{name}{EXTENSION}"
    if name and Path(name).name == name and path.is_file():
        return read_preset(path, name, is_own=True)
    presets = all_presets(folders)
    for preset in presets:
        if name in (preset.name, preset.title):
            return preset
    if not name:
        raise UserError("Choose a preset.")
    raise UserError(f"There is no preset {name!r}.{nearest(name, [preset.name for preset in presets])}")


def save_preset(folders: Folders, name: str, settings: Settings, model_type: str, replace: bool = False) -> Preset:
    """Save all settings that have an effect, except those that name files and prompts of one model."""
    values = dataclasses.asdict(settings)
    chosen = {
        key: Choice(values[key])
        for key, setting in SETTINGS.items()
        if not is_personal(key) and setting.applies_to(values)
    }
    name = name.strip()
    return _write(folders, Preset(name, name, (model_type,), settings=chosen, is_own=True), replace)


def import_preset(folders: Folders, path: Path, name: str = "", replace: bool = False) -> Preset:
    """Copy a preset file of any place into the user's presets; ``name``: "" takes that of the file."""
    preset = read_preset(path, name.strip() or clean_name(Path(path).stem), is_own=True)
    return _write(folders, preset, replace)


def export_preset(preset: Preset, path: Path, replace: bool = False) -> None:
    """Write a preset to a file of any place."""
    if path.exists() and not replace:
        raise UserError(f"{path} exists. Choose another name.")
    write_json(path, preset.as_dict())


def delete_preset(folders: Folders, name: str) -> None:
    path = folders.presets / f"{require_name(name.strip(), 'the name of a preset')}{EXTENSION}"
    if not path.is_file():
        raise UserError(f"There is no preset {name!r} of your own. Presets that are shipped can't be deleted.")
    path.unlink()


def _write(folders: Folders, preset: Preset, replace: bool) -> Preset:
    require_name(preset.name, "the name of a preset")
    if any(preset.name in (shipped.name, shipped.title) for shipped in shipped_presets()):
        raise UserError(f"{preset.name} is the name of a preset that is shipped. Choose another name.")
    path = folders.presets / f"{preset.name}{EXTENSION}"
    if path.exists() and not replace:
        raise UserError(f"A preset named {preset.name} exists. Choose another name, or delete it first.")
    write_json(path, preset.as_dict())
    return preset
