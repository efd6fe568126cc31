"""The programs whose files are imported: how each is recognized by its content, and what imports it.

To add a program, add an entry to PROGRAMS. Entries are tried in order, so that the most specific comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreambooth.interop import easy_training, kohya_gui, lora_scripts
from dreambooth.interop.ai_toolkit.job_file import is_job
from dreambooth.interop.ai_toolkit.training import import_job
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.subsets import import_datasets
from dreambooth.interop.kohya.training_config import KNOWN_PARAMETERS, import_training
from dreambooth.interop.onetrainer.concepts import is_concepts
from dreambooth.interop.onetrainer.config_file import is_config
from dreambooth.interop.onetrainer.training import import_concepts_file, import_config
from dreambooth.text import escape_unprintable


@dataclass(frozen=True)
class Program:
    """``recognize`` gets the plain values of a file (dict or list); ``import_file`` fills the report from it."""

    name: str
    recognize: Callable[[Any], bool]
    import_file: Callable[[ImportReport, DataFile], None]


def _is_dataset_config(data: Any) -> bool:
    return isinstance(data, dict) and ("datasets" in data or data.keys() == {"general"})


def _import_dataset_config(report: ImportReport, file: DataFile) -> None:
    toml = file.as_toml()
    import_datasets(report, toml, toml.values)
    report.require_concepts(file.path)


def _is_training_config(data: Any) -> bool:
    """Whether any key is a parameter of sd-scripts, in whatever section."""
    if not isinstance(data, dict):
        return False
    names = {name for key, value in data.items() for name in (value if isinstance(value, dict) else (key,))}
    return not KNOWN_PARAMETERS.isdisjoint(names)


def _import_training_config(report: ImportReport, file: DataFile) -> None:
    import_training(report, file.as_toml())


PROGRAMS: tuple[Program, ...] = (
    Program("ai-toolkit", is_job, import_job),
    Program("OneTrainer (config.json)", is_config, import_config),
    Program("OneTrainer (concepts.json)", is_concepts, import_concepts_file),
    Program(kohya_gui.NAME, kohya_gui.recognize, kohya_gui.import_file),
    Program(easy_training.NAME, easy_training.recognize, easy_training.import_file),
    Program(lora_scripts.NAME, lora_scripts.recognize, lora_scripts.import_file),
    Program("sd-scripts (dataset.toml)", _is_dataset_config, _import_dataset_config),
    Program("sd-scripts (training parameters)", _is_training_config, _import_training_config),
)


def find_program(data: Any) -> Program | None:
    """The program that a file with these values was written by; None if it is not known."""
    return next((program for program in PROGRAMS if program.recognize(data)), None)


def describe_unknown(file: DataFile) -> str:
    """The message for a file of no known program: what it holds, and what can be imported."""
    known = ", ".join(dict.fromkeys(program.name for program in PROGRAMS))
    return (
        f"{file.path} was not recognized: it contains {_describe_content(file.data)}. Choose a concepts list "
        f'([{{"instance_data_dir": ...}}]), a db_config.json, or a file of one of these programs: {known}.'
    )


def _describe_content(data: Any) -> str:
    if isinstance(data, dict) and data:
        names = [escape_unprintable(key)[:40] for key in data]
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        return f"the names {', '.join(names[:_SHOWN_NAMES])}{more}"
    if isinstance(data, list) and data:
        kinds = "objects" if all(isinstance(row, dict) for row in data) else "values"
        return f"a list of {len(data)} {kinds}" + (f" with {_describe_content(data[0])}" if kinds == "objects" else "")
    return "nothing" if data in ({}, []) else "a single value"


_SHOWN_NAMES = 6
