"""What a preset changes in the settings of a model, before it is applied."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.presets.preset_file import Choice, Preset
from dreambooth.settings import SETTINGS, Settings
from dreambooth.settings.creation import FAMILIES

if TYPE_CHECKING:
    from dreambooth.models.family import Family


@dataclass(frozen=True)
class Change:
    key: str
    now: Any
    then: Any
    reason: str

    @property
    def label(self) -> str:
        return SETTINGS[self.key].label


def choices_for(preset: Preset, family: Family, settings: Settings) -> dict[str, Choice]:
    """The settings of a preset that have an effect on a model of ``family``, in the order of the preset.

    A preset for any family takes what the family can't have as the value that remains; one that names its families is
    refused.

    Raises:
        UserError: with one line for each problem.
    """
    if preset.families and family.model_type not in preset.families:
        raise UserError(_other_family(preset, family))
    chosen, limits = preset.choices(family.model_type), family.capabilities
    values = dataclasses.asdict(settings) | {key: choice.value for key, choice in chosen.items()}
    refused = [key for key in limits.refused(values) if key in chosen]
    if preset.families and preset.is_own and refused:
        raise UserError.from_problems(limits.refusal(family.title, key, values[key]) for key in refused)
    for key in refused:
        chosen[key] = Choice(limits.allowed(key)[0], f"{family.title}: {limits.limits[key].reason}.")
    values |= {key: choice.value for key, choice in chosen.items()}
    return {key: choice for key, choice in chosen.items() if SETTINGS[key].applies_to(values)}


def _other_family(preset: Preset, family: Family) -> str:
    titles = ", ".join(FAMILIES[name] for name in preset.families)
    if preset.is_own:
        return f"{preset.title} is a preset for {titles}, and the model is {family.title}. Choose another preset."
    return f"{preset.title}: {family.title} needs more memory. Choose a preset for a larger GPU."


def changes(preset: Preset, family: Family, settings: Settings) -> list[Change]:
    """The settings that the preset would change, in its order. Raises as :func:`choices_for`."""
    return [
        Change(key, now, choice.value, choice.reason)
        for key, choice in choices_for(preset, family, settings).items()
        if (now := getattr(settings, key)) != choice.value
    ]


def apply(preset: Preset, family: Family, settings: Settings) -> Settings:
    """``settings`` with those of the preset. Raises as :func:`choices_for`."""
    return dataclasses.replace(settings, **{change.key: change.then for change in changes(preset, family, settings)})
