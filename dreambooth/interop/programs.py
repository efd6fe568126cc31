"""The programs whose files are imported: how each is recognized by its content, and what imports it.

To add a program, add an entry to PROGRAMS. Entries are tried in order, so that the most specific comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop import command_script, easy_training, kohya_gui, lora_scripts, metadata_input
from dreambooth.interop.ai_toolkit.job_file import is_job
from dreambooth.interop.ai_toolkit.training import import_job
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.kohya.subsets import import_datasets
from dreambooth.interop.kohya.training_config import KNOWN_PARAMETERS, has_training_parameters, import_training
from dreambooth.interop.onetrainer.concepts import is_concepts
from dreambooth.interop.onetrainer.config_file import is_config
from dreambooth.interop.onetrainer.samples import is_samples, refuse_samples
from dreambooth.interop.onetrainer.training import import_concepts_file, import_config
from dreambooth.interop.translation import flatten, refuse_other_family
from dreambooth.interop.unknown_files import describe_content, known_kind


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
    if has_training_parameters(toml):
        import_training(report, toml)
        return
    import_datasets(report, toml, toml.values)
    report.require_concepts(file.path)


def _is_training_config(data: Any) -> bool:
    """Whether at least a third of the keys are parameters of sd-scripts, in whatever section."""
    names = flatten(data).keys() if isinstance(data, dict) else set()
    known = names & KNOWN_PARAMETERS
    return bool(known) and 3 * len(known) >= len(names) and not known_kind(data)


def _import_training_config(report: ImportReport, file: DataFile) -> None:
    refuse_other_family(file.path, flatten(file.data))
    import_training(report, file.as_toml())


PROGRAMS: tuple[Program, ...] = (
    Program("ai-toolkit", is_job, import_job),
    Program("OneTrainer (config.json)", is_config, import_config),
    Program("OneTrainer (concepts.json)", is_concepts, import_concepts_file),
    Program("OneTrainer (samples.json)", is_samples, refuse_samples),
    Program(metadata_input.NAME, metadata_input.recognize, metadata_input.import_file),
    Program(kohya_gui.NAME, kohya_gui.recognize, kohya_gui.import_file),
    Program(easy_training.NAME, easy_training.recognize, easy_training.import_file),
    Program(lora_scripts.NAME, lora_scripts.recognize, lora_scripts.import_file),
    Program(command_script.NAME, command_script.recognize, command_script.import_file),
    Program("sd-scripts (dataset.toml)", _is_dataset_config, _import_dataset_config),
    Program("sd-scripts (training parameters)", _is_training_config, _import_training_config),
)


_SD_SCRIPTS = PROGRAMS[-2:]
_MAX_NESTED = 100  # tables and lists in which a program is searched


def find_program(data: Any) -> Program | None:
    """The program that a file with these values was written by; None if it is not known."""
    return next((program for program in PROGRAMS if program.recognize(data)), None)


def recognize_file(file: DataFile) -> tuple[Program, DataFile]:
    """The program that the file was written by, and its part that the program reads. UserError if it is not known.

    Presets are also found inside of other tables or lists, such as {"settings": {...}}.
    """
    program = find_program(file.data)
    if program is None or program is _SD_SCRIPTS[-1]:  # whose parameters may be in any section
        for part in [] if known_kind(file.data) else _nested(file.data):
            found = find_program(part)
            if found and found not in _SD_SCRIPTS:
                return found, DataFile(file.path, part)
    if program is None:
        raise UserError(
            f"{file.path} was not recognized: {describe_content(file.data)}. Choose a concepts list "
            f'([{{"instance_data_dir": ...}}]), a db_config.json, or a file of one of these programs: '
            f"{', '.join(program.name for program in PROGRAMS)}."
        )
    return program, file


def _nested(data: Any) -> list[Any]:
    """The tables and lists inside of the data, outer ones first."""
    found = [data]
    for part in found:
        values = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        found += [value for value in values if isinstance(value, (dict, list)) and value]
        if len(found) > _MAX_NESTED:
            break
    return found[1 : _MAX_NESTED + 1]
