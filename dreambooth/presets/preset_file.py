"""The format of a preset file: settings, each with its reason, for model families and a size of GPU memory.

{
    "dreambooth_preset": 1,                    version of this format
    "title": "LoRA, person",
    "families": ["SDXL"],                      model types, or "any"
    "subject": "person",                       person, object, style or any
    "gpu_memory_gb": 12,                       or "any"
    "settings": {
        "lora_unet_rank": {"value": 16, "reason": "Enough for a face."},
        "num_train_epochs": 150                without a reason
    },
    "overrides": [{"families": [...], "settings": {...}}]      other values for some families; may be left out
}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.settings import SETTINGS
from dreambooth.settings.creation import FAMILIES
from dreambooth.settings.other_names import unknown_key, value_advice

VERSION = 1
VERSION_KEY = "dreambooth_preset"
ANY = "any"
SUBJECTS = (ANY, "person", "object", "style")
MAX_BYTES = 1_000_000
_KEYS = (VERSION_KEY, "title", "families", "subject", "gpu_memory_gb", "settings", "overrides")


@dataclass(frozen=True)
class Choice:
    """The value of a setting, and why."""

    value: Any
    reason: str = ""


Choices = Mapping[str, Choice]


@dataclass(frozen=True)
class Preset:
    """``families``: model types; () for any. ``gpu_memory``: in GB; 0 for any. ``unknown``: settings that this version
    does not have, which are kept in the file.
    """

    name: str
    title: str
    families: tuple[str, ...] = ()
    subject: str = ANY
    gpu_memory: int = 0
    settings: Choices = field(default_factory=dict)
    overrides: tuple[tuple[tuple[str, ...], Choices], ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict)
    is_own: bool = False

    def choices(self, model_type: str) -> dict[str, Choice]:
        """The values for a family."""
        chosen = dict(self.settings)
        for families, settings in self.overrides:
            if model_type in families:
                chosen |= settings
        return chosen

    def notes(self) -> list[str]:
        """What is in the file and has no effect."""
        return [f"{key}: there is no such setting{unknown_key(key, SETTINGS)}. It is ignored." for key in self.unknown]

    def as_dict(self) -> dict[str, Any]:
        """The object of its file."""
        values = {
            VERSION_KEY: VERSION,
            "title": self.title,
            "families": list(self.families) or ANY,
            "subject": self.subject,
            "gpu_memory_gb": self.gpu_memory or ANY,
            "settings": {**_as_values(self.settings), **self.unknown},
        }
        overrides = [{"families": list(names), "settings": _as_values(chosen)} for names, chosen in self.overrides]
        return values | ({"overrides": overrides} if overrides else {})


def _as_values(choices: Choices) -> dict[str, Any]:
    return {key: {"value": choice.value, "reason": choice.reason} for key, choice in choices.items()}


def read_preset(path: Path, name: str, is_own: bool = False) -> Preset:
    """The preset in a file. UserError with one line for each problem, which names the file."""
    try:
        return parse_preset(read_json(path, MAX_BYTES, by_hand=True), name, is_own)
    except UserError as error:
        lines = [text if path.name in text else f"{path.name}: {text}" for text in error.problems]
        raise UserError.from_problems(lines) from error


def parse_preset(values: Any, name: str, is_own: bool = False) -> Preset:
    """The preset in the object of a file. UserError with one line for each problem."""
    if not isinstance(values, dict) or VERSION_KEY not in values:
        raise UserError(f"this is no preset: it must be a JSON object with {VERSION_KEY}, as exported presets have.")
    version = values[VERSION_KEY]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError(f"{VERSION_KEY}: {version!r} is no version. Write {VERSION}.")
    if version > VERSION:
        raise UserError(
            f"{VERSION_KEY}: it has version {version}, and this release reads up to {VERSION}. Update the extension."
        )
    problems: list[str] = [
        f"{key}: a preset has no such entry. Remove it, or move it to settings." for key in values if key not in _KEYS
    ]
    unknown: dict[str, Any] = {}
    preset = Preset(
        name,
        str(values.get("title") or name),
        _families(values.get("families", ANY), "families", problems),
        _subject(values.get("subject", ANY), problems),
        _gpu_memory(values.get("gpu_memory_gb", ANY), problems),
        _choices(values.get("settings", {}), "", problems, unknown),
        tuple(_overrides(values.get("overrides", []), problems)),
        unknown,
        is_own,
    )
    if not preset.settings and not preset.overrides and not problems:
        problems.append("settings: it has none. Add the settings that it should change.")
    if problems:
        raise UserError.from_problems(problems)
    return preset


def _families(value: Any, where: str, problems: list[str]) -> tuple[str, ...]:
    if value == ANY:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        problems.append(f'{where}: write "{ANY}", or a list of model types such as ["SDXL"].')
        return ()
    for name in names:
        if name not in FAMILIES:
            problems.append(f"{where}: there is no model type {name!r}. Choose from: {', '.join(FAMILIES)}.")
    return tuple(names)


def _subject(value: Any, problems: list[str]) -> str:
    if value not in SUBJECTS:
        problems.append(f"subject: {value!r} is not one of: {', '.join(SUBJECTS)}.")
        return ANY
    return value


def _gpu_memory(value: Any, problems: list[str]) -> int:
    if value == ANY:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        problems.append(f'gpu_memory_gb: write "{ANY}", or a whole number of gigabytes such as 12.')
        return 0
    return value


def _choices(values: Any, where: str, problems: list[str], unknown: dict[str, Any]) -> dict[str, Choice]:
    if not isinstance(values, dict):
        problems.append(f"{where}settings: it must be an object of settings and their values.")
        return {}
    chosen = {}
    for key, given in values.items():
        if key not in SETTINGS:
            unknown[key] = given
            continue
        is_pair = isinstance(given, dict)
        value, reason = (given.get("value"), given.get("reason", "")) if is_pair else (given, "")
        try:
            if is_personal(key):
                raise ValueError("it belongs to one model or machine, and can't be in a preset; remove it")
            chosen[key] = Choice(SETTINGS[key].parse(value), str(reason or ""))
        except ValueError as error:
            problems.append(f"{where}{key} ({SETTINGS[key].label}): {error}{value_advice(key, value)}.")
    return chosen


def _overrides(values: Any, problems: list[str]) -> Sequence[tuple[tuple[str, ...], Choices]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        problems.append("overrides: it must be a list of objects with families and settings.")
        return []
    found = []
    for number, value in enumerate(values, 1):
        where = f"overrides {number}: "
        families = _families(value.get("families"), f"{where}families", problems)
        found.append((families, _choices(value.get("settings", {}), where, problems, {})))
    return found


def is_personal(key: str) -> bool:
    """Whether a setting names a file or prompt of one model, or is a secret."""
    setting = SETTINGS[key]
    return setting.path or setting.file_name or setting.secret or bool(setting.file_list) or key in _OF_ONE_MODEL


_OF_ONE_MODEL = ("sanity_prompt", "sanity_seed", "seed", "preview_model")
