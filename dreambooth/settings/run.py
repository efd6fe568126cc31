"""All settings of a training run, in one dataclass. Names are the keys of db_config.json.

A setting exists only if it has a measurable effect; tests/training/test_settings_work.py goes through all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.settings.declare import declared
from dreambooth.settings.objective import Objective
from dreambooth.settings.results import Results
from dreambooth.settings.training import Training


@dataclass(frozen=True, kw_only=True)
class Settings(Results, Objective, Training):  # a dataclass takes its fields from the last base first
    """All settings of a run. Immutable: a run uses the values it started with."""


SETTINGS = declared(Settings)
