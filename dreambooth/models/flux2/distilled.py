"""Whether a file is klein base or the distilled klein, which have the same tensors: only names and configs tell."""

from __future__ import annotations

import json

from dreambooth.errors import UserError
from dreambooth.files import read_bounded
from dreambooth.models.sd.distilled import descriptions
from dreambooth.tensor_files import Tensors

_MAX_BYTES = 1_000_000


def distilled_klein(file: Tensors) -> str:
    """The place that says that it is distilled, as the start of a sentence; "" if it is klein base or unknown.

    A diffusers folder says it in model_index.json. Otherwise a name with "klein" and without "base" does.
    """
    is_distilled = _in_index(file)
    if is_distilled is not None:
        return "model_index.json (is_distilled)" if is_distilled else ""
    for place, text in descriptions(file):
        if "klein" in text.lower() and "architecture" not in place:  # which is the same for both
            return "" if "base" in text.lower() else place
    return ""


def _in_index(file: Tensors) -> bool | None:
    if not file.path.is_dir():
        return None
    try:
        value = json.loads(read_bounded(file.path / "model_index.json", _MAX_BYTES)).get("is_distilled")
    except (OSError, ValueError, AttributeError, UserError, RecursionError):
        return None
    return value if isinstance(value, bool) else None
