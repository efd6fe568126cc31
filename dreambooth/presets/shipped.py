"""The presets that are shipped: a recipe for the family, what the subject changes, and what the GPU's memory changes.

Each is a file in data/, composed here: later ones replace settings of earlier ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.files import read_json
from dreambooth.presets.preset_file import Choice, Choices, Preset, parse_preset, read_preset
from dreambooth.settings.creation import FAMILIES

_DATA = Path(__file__).parent / "data"
SHIPPED_SUBJECTS = ("person", "object", "style")
_NEARLY = 0.75  # GiB that a card reports less than its name says


@dataclass(frozen=True)
class Configuration:
    """How a LoRA is trained in a certain amount of memory. ``settings``: all; ``differing``: beside those in common."""

    title: str
    settings: Choices
    differing: Choices

    def values(self) -> dict[str, Any]:
        return {key: choice.value for key, choice in self.settings.items()}


@functools.cache
def _memory() -> Mapping[str, Any]:
    return read_json(_DATA / "memory.json")


@functools.cache
def configurations() -> dict[str, Configuration]:
    """All, by name."""
    common = _choices(_memory()["common"])
    found = {}
    for name, values in _memory()["configurations"].items():
        own = _choices(values["settings"])
        found[name] = Configuration(values["title"], {**common, **own}, own)
    return found


def wizard_configurations() -> list[Configuration]:
    """Those that the wizard chooses from, from the best results to the least memory."""
    return [configurations()[name] for name in _memory()["wizard"]]


def _choices(values: Any) -> dict[str, Choice]:
    """Checked settings; those of a preset are checked in one place."""
    return dict(parse_preset({"dreambooth_preset": 1, "settings": values}, "memory").settings) if values else {}


def card_sizes() -> list[int]:
    """GB of the cards that there are presets for; the largest stands for all larger ones too."""
    return [int(size) for size in _memory()["cards"]]


def card_size(total_bytes: int) -> int:
    """The size that a card with this much memory counts as; 0 for one that is smaller than all of them."""
    return max((size for size in card_sizes() if total_bytes >= (size - _NEARLY) * 2**30), default=0)


@functools.cache
def part(name: str) -> Preset:
    """One of the files: the recipe, or a subject."""
    return read_preset(_DATA / f"{name}.json", name)


def subject_preset(subject: str) -> Preset:
    """The preset of a subject for any size of memory: the settings that memory is a matter of stay as they are."""
    recipe, own = part("recipe"), part(subject)
    return Preset(
        subject, own.title, (), subject, 0, {**recipe.settings, **own.settings}, _later(recipe, own.settings, own)
    )


def _later(recipe: Preset, settings: Choices, own: Preset) -> tuple[tuple[tuple[str, ...], Choices], ...]:
    """The overrides of both; those of the recipe don't undo what the subject sets for every family."""
    kept = tuple(
        (families, {key: choice for key, choice in chosen.items() if key not in settings})
        for families, chosen in recipe.overrides
    )
    return (*kept, *own.overrides)


def card_preset(subject: str, size: int) -> Preset:
    """The preset of a subject for a card of ``size`` GB, for all families that fit."""
    base = subject_preset(subject)
    by_configuration: dict[str, list[str]] = {}
    for model_type, name in _memory()["cards"][str(size)].items():
        by_configuration.setdefault(name, []).append(model_type)
    in_memory = tuple((tuple(families), configurations()[name].settings) for name, families in by_configuration.items())
    families = tuple(model_type for model_type in FAMILIES if model_type in _memory()["cards"][str(size)])
    title = f"{base.title} ({size} GB{' or more' if size == card_sizes()[-1] else ''})"
    return Preset(f"{subject}-{size}gb", title, families, subject, size, base.settings, (*base.overrides, *in_memory))


@functools.cache
def shipped_presets() -> tuple[Preset, ...]:
    """All: of each subject, for any memory and for each size of card."""
    sizes = card_sizes()
    return tuple(
        preset
        for subject in SHIPPED_SUBJECTS
        for preset in (subject_preset(subject), *(card_preset(subject, size) for size in sizes))
    )
