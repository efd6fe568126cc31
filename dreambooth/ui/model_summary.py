"""What is so about a model, in words: from the small parts of its files, so that a page can ask every second."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.safetensors_header import read_header
from dreambooth.settings import ModelInfo, ModelFolder
from dreambooth.settings.creation import FAMILIES
from dreambooth.ui.render import gigabytes

INPAINTING_CHANNELS = 9  # latent, mask, masked latent
PREDICTIONS = {"epsilon": "ε-prediction", "v_prediction": "v-prediction"}
SAFETENSORS_DTYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}  # as this package names them


def rows(model: ModelFolder, facts: ModelInfo) -> dict[str, str]:
    """What to say of a model: name and value."""
    return {
        "Source": Path(facts.src).name or "unknown source",
        "Family": _family(model, facts),
        "Working copy": _weights(model),
        "Revision": f"{facts.revision} steps · epoch {facts.epoch}",
        "EMA": "yes" if facts.has_ema else "no",
        "Folder": str(model.root),
    }


def _family(model: ModelFolder, facts: ModelInfo) -> str:
    path = model.working / "unet" / "config.json"
    config = read_json(path) if path.is_file() else {}
    words = [FAMILIES.get(facts.model_type, facts.model_type)]
    if config.get("in_channels") == INPAINTING_CHANNELS:
        words.append("inpainting")
    words.append(PREDICTIONS.get(facts.prediction_type, facts.prediction_type))
    if "sample_size" in config and " px" not in words[0]:
        words.append(f"{config['sample_size'] * 8} px")
    return ", ".join(words)


def _weights(model: ModelFolder) -> str:
    """Its precision (that of the parts that differ by name) and size."""
    stats = {}
    for path in sorted(model.working.glob("*/*.safetensors")):
        with contextlib.suppress(OSError):  # a run may be replacing it at this moment
            stats[path] = path.stat()
    kinds = {path.parent.name: _precision(path, stat.st_mtime_ns) for path, stat in stats.items()}
    most = kinds.get("unet", "")
    others = [f"{part} {kind}" for part, kind in kinds.items() if kind != most]
    told = f"{most} ({', '.join(others)})" if others else most
    return f"{told} · {gigabytes(sum(stat.st_size for stat in stats.values()))}"


@functools.lru_cache(maxsize=64)
def _precision(path: Path, changed: int) -> str:
    """In which most of the file's numbers are kept, by the header alone; ``changed`` makes a new file a new one."""
    try:
        with path.open("rb") as file:
            header = read_header(path, file)
    except (OSError, UserError):
        return "unreadable"
    sizes: dict[str, int] = {}
    for entry in header.tensors.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.end - entry.start
    most = max(sizes, key=sizes.__getitem__, default="")
    return SAFETENSORS_DTYPES.get(most, most)
