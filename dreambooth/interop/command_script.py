"""Import of scripts that run sd-scripts, such as lora-scripts' train.ps1, and of commands pasted into a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.data_file import DataFile
from dreambooth.interop.kohya.import_report import ImportReport
from dreambooth.interop.script_text import SCRIPT_KEY
from dreambooth.interop.translation import Translation, import_translation, parse_command_line

NAME = "scripts that run sd-scripts (.sh, .ps1, .bat)"
_LAUNCH_PARAMETERS = ("multi_gpu", "num_processes", "num_machines", "num_cpu_threads_per_process", "gpu_ids")
_OTHER_FAMILIES = {"flux": "FLUX.1", "sd3": "Stable Diffusion 3", "lumina": "Lumina Image 2.0", "anima": "Anima"}


def recognize(data: Any) -> bool:
    return isinstance(data, Mapping) and SCRIPT_KEY in data


def import_file(report: ImportReport, file: DataFile) -> None:
    """Import the arguments of the command. UserError if it trains a model of another family."""
    script, arguments = file.data[SCRIPT_KEY]["script"], file.data[SCRIPT_KEY]["arguments"]
    family = next((name for start, name in _OTHER_FAMILIES.items() if script.startswith(start)), "")
    if family:
        raise UserError(
            f"{file.path} runs {script}, which trains {family}. Only Stable Diffusion 1.x, 2.x and XL are supported; "
            "choose a script for one of these."
        )
    values, _ = parse_command_line(arguments)
    given = {key: value for key, value in values.items() if value != "" and key not in _LAUNCH_PARAMETERS}
    result = Translation("the script", given, ignored=[key for key in _LAUNCH_PARAMETERS if key in values])
    result.values |= {"sdxl": True} if script.startswith("sdxl") else {}
    import_translation(report, file.path, result)
    if "network_module" not in values and PurePosixPath(script).stem in ("train_db", "fine_tune", "sdxl_train"):
        report.set("use_lora", False, script)
