"""Summary of a model: source, family, precision, size. Reads only configs and headers, so that it can be polled."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.safetensors_header import read_header
from dreambooth.settings import ModelFolder, ModelInfo
from dreambooth.settings.creation import FAMILIES
from dreambooth.text import count, format_bytes
from dreambooth.types import VAE_SCALE_FACTOR
from dreambooth.ui.resume_offer import snapshots_in_short

INPAINTING_CHANNELS = 9  # latent, mask, masked latent
PREDICTIONS = {"epsilon": "ε-prediction", "v_prediction": "v-prediction"}
SAFETENSORS_DTYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}


def rows(model: ModelFolder, info: ModelInfo) -> dict[str, str]:
    """Labels and values of the summary."""
    unadopted = {"Layout": "of the old extension; it is adopted when it is first checked, trained or exported"}
    return {
        **({} if model.has_manifest() else unadopted),
        "Source": Path(info.src).name or "unknown source",
        "Family": _family(model, info),
        "Working copy": _weights(model),
        "Revision": f"{count(info.revision, 'step')} · epoch {info.epoch}",
        "EMA": "yes" if info.has_ema else "no",
        "Snapshots": snapshots_in_short(model),
        "Folder": str(model.root),
    }


def _family(model: ModelFolder, info: ModelInfo) -> str:
    path = model.working / "unet" / "config.json"
    config = read_json(path) if path.is_file() else {}
    parts = [FAMILIES.get(info.model_type, info.model_type)]
    if config.get("in_channels") == INPAINTING_CHANNELS:
        parts.append("inpainting")
    parts.append(PREDICTIONS.get(info.prediction_type, info.prediction_type))
    if "sample_size" in config and " px" not in parts[0]:
        parts.append(f"{config['sample_size'] * VAE_SCALE_FACTOR} px")
    return ", ".join(filter(None, parts))


def _weights(model: ModelFolder) -> str:
    """Precision of the unet, of each component that differs from it, and the total size."""
    stats = {}
    for path in sorted(model.working.glob("*/*.safetensors")):
        with contextlib.suppress(OSError):  # a run may be replacing it at this moment
            stats[path] = path.stat()
    precisions = {path.parent.name: _precision(path, stat.st_mtime_ns) for path, stat in stats.items()}
    precision = precisions.get("unet", "")
    others = [f"{component} {other}" for component, other in precisions.items() if other != precision]
    text = f"{precision} ({', '.join(others)})" if others else precision
    return f"{text} · {format_bytes(sum(stat.st_size for stat in stats.values()))}"


@functools.lru_cache(maxsize=64)
def _precision(path: Path, mtime_ns: int) -> str:
    """The dtype of most of a file's bytes, from its header. ``mtime_ns`` is part of the cache key."""
    try:
        with path.open("rb") as file:
            header = read_header(path, file)
    except (OSError, UserError):
        return "unreadable"
    sizes: dict[str, int] = {}
    for entry in header.tensors.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.end - entry.start
    dtype = max(sizes, key=sizes.__getitem__, default="")
    return SAFETENSORS_DTYPES.get(dtype, dtype)
