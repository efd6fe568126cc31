"""Read YAML text of other programs into plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.interop.kohya.toml_file import BACKSLASH_HINT


def parse_yaml(text: str, path: Path) -> Any:
    """The first document in the text. UserError names the invalid line and the fix."""
    import yaml  # comes with huggingface_hub, and takes long to import

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return next(iter(yaml.load_all(text, Loader=loader)), None)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 1 if mark else 0
        lines = text.split("\n")
        line = lines[number - 1].strip()[:80] if 0 < number <= len(lines) else ""
        reason = getattr(error, "problem", None) or str(error).split("\n")[0] or type(error).__name__
        advice = ""
        if "\\" in line:
            advice = f" {BACKSLASH_HINT}."
        elif "\t" in (lines[number - 1] if 0 < number <= len(lines) else ""):
            advice = " Indent with spaces instead of tabs."
        location = f", line {number}" if number else ""
        raise UserError(f"{path}{location}: is not valid YAML: {reason}. {line}{advice}".rstrip()) from error
