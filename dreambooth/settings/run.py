"""Every setting of a training run, declared once. Names are the keys of db_config.json.

A setting stands in one of the three parts only when it has an effect that can be measured; the tests go through all.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared
from dreambooth.settings.objective import Objective
from dreambooth.settings.results import Results
from dreambooth.settings.training import Training


@dataclass(frozen=True, kw_only=True)
class Settings(Results, Objective, Training):  # a dataclass takes its fields from the last one first
    """What the person chose. Immutable: a run works on the values it started with."""


SETTINGS = declared(Settings)
