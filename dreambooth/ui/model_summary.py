"""Summary of a model: source, family, precision, size. Reads only configs and headers, so that it can be polled."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.safetensors_header import read_header
from dreambooth.settings import ModelFolder, ModelInfo
from dreambooth.settings.creation import FAMILIES
from dreambooth.text import count, format_bytes
from dreambooth.ui.resume_offer import snapshots_in_short

if TYPE_CHECKING:
    from dreambooth.models.family import Family

PREDICTIONS = {"epsilon": "ε-prediction", "v_prediction": "v-prediction", "flow_prediction": "flow matching"}
SAFETENSORS_DTYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}


def rows(model: ModelFolder, info: ModelInfo) -> dict[str, str]:
    """Labels and values of the summary."""
    from dreambooth.models.registry import find_family

    family = find_family(info.model_type)
    unadopted = {"Layout": "of the old extension; it is adopted when it is first checked, trained or exported"}
    return {
        **({} if model.has_manifest() else unadopted),
        "Source": Path(info.src).name or "unknown source",
        "Family": _family(model, info, family),
        "Working copy": _weights(model, family),
        "Revision": f"{count(info.revision, 'step')} · epoch {info.epoch}",
        "EMA": "yes" if info.has_ema else "no",
        "Snapshots": snapshots_in_short(model),
        "Folder": str(model.root),
    }


def _family(model: ModelFolder, info: ModelInfo, family: Family | None) -> str:
    title = FAMILIES.get(info.model_type, info.model_type)
    prediction = PREDICTIONS.get(info.prediction_type, info.prediction_type)
    if family is None:
        return ", ".join(filter(None, (title, prediction)))
    paths = {name: model.working / name / "config.json" for name in family.component_names}
    configs = {name: read_json(path) if path.is_file() else {} for name, path in paths.items()}
    resolution = family.native_resolution(configs)
    size = f"{resolution} px" if resolution and " px" not in title else ""
    return ", ".join(filter(None, (title, *family.variants(configs), prediction, size)))


def _weights(model: ModelFolder, family: Family | None) -> str:
    """Precision of the denoiser, of each component that differs from it, and the size of files, also of those that are
    read in place.
    """
    from dreambooth.checkpoints.references import reference_paths

    own = {path: path.parent.name for path in sorted(model.working.glob("*/*.safetensors"))}
    in_place: dict[Path, str] = {}
    for folder in sorted(model.working.glob("*/")):
        with contextlib.suppress(UserError):  # reported before a run
            in_place |= {path: folder.name for path in reversed(reference_paths(folder))}
    stats = {}
    for path in (*own, *in_place):
        with contextlib.suppress(OSError):  # a run may be replacing it at this moment
            stats[path] = path.stat()
    components = {**own, **in_place}
    precisions = {components[path]: _precision(path, stat.st_mtime_ns) for path, stat in stats.items()}
    precision = precisions.get(family.denoiser.name, "") if family else ""
    others = [f"{component} {other}" for component, other in precisions.items() if other != precision]
    text = f"{precision} ({', '.join(others)})" if others else precision
    size, size_in_place = (sum(stats[path].st_size for path in paths if path in stats) for paths in (own, in_place))
    return f"{text} · {format_bytes(size)}" + (f" · {format_bytes(size_in_place)} read in place" if in_place else "")


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
