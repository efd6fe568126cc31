"""LoRA files: extract, resize and merge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.paths import clean_path
from dreambooth.settings import Folders, ModelFolder
from dreambooth.text import count
from dreambooth.types import ProgressCallback, dtype_of


def extract_lora(
    folders: Folders,
    base: str | Path,
    tuned: str | Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    conv_rank: int | None = None,
    precision: str = "fp16",
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Write a LoRA of what ``tuned`` knows beyond ``base``: each a checkpoint, a diffusers folder or a model's name.

    ``rank`` (0: no limit) and ``energy`` say how large (see :class:`dreambooth.checkpoints.lora_tools.RankLimit`);
    ``conv_rank`` is the rank for 3x3 convolutions, which are left out without it.
    """
    from dreambooth.checkpoints.lora_extract import extract_lora
    from dreambooth.checkpoints.lora_tools import RankLimit

    size = RankLimit(rank or None, energy)
    conv_limit = RankLimit(conv_rank, energy) if conv_rank else None
    base, tuned, target = _source(folders, base), _source(folders, tuned), _target(out)
    return _summary(
        extract_lora(base, tuned, target, size, conv_limit=conv_limit, dtype=dtype_of(precision), progress=progress)
    )


def resize_lora(
    lora: Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    precision: str = "fp16",
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Write the LoRA with a smaller rank, or with the smallest rank that keeps this fraction of its energy."""
    from dreambooth.checkpoints.lora_tools import RankLimit, resize_lora

    return _summary(
        resize_lora(Path(lora), _target(out), RankLimit(rank or None, energy), dtype_of(precision), progress)
    )


def merge_loras(
    loras: Sequence[Path],
    out: Path,
    *,
    lora_weights: Sequence[float] = (),
    lora_text_weights: Sequence[float] = (),
    precision: str = "fp16",
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Write one LoRA that does what several do together; a negative weight takes one away."""
    from dreambooth.checkpoints.lora import weighted_loras
    from dreambooth.checkpoints.lora_tools import merge_loras

    uses = weighted_loras(loras, lora_weights, lora_text_weights)
    return _summary(merge_loras(uses, _target(out), dtype_of(precision), progress))


def _source(folders: Folders, source: str | Path) -> Path:
    """The file or folder, or that of the model with this name."""
    path = clean_path(source)
    if path.exists() or not str(source).strip() or path.parent != Path():
        return path
    model = ModelFolder(folders, str(path))
    return model.working if model.occupied() else path


def _target(out: Path) -> Path:
    from dreambooth.training.results import unused_path

    path = clean_path(out)
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{out}: LoRAs are saved as .safetensors. Use that file extension.")
    return unused_path(path)


def _summary(path: Path) -> dict[str, Any]:
    """The written file, read back: path, number of modules by rank, and the fraction of energy that was kept.

    UserError if it has values that are NaN or infinite, for instance because they overflow its precision.
    """
    from dreambooth.checkpoints.lora_file import read_lora
    from dreambooth.checkpoints.lora_tools import ENERGY_KEY
    from dreambooth.checkpoints.writing import is_finite

    file = read_lora(path)
    not_finite = [name for name, adapter in file.weights.items() if not all(map(is_finite, adapter.tensors.values()))]
    if not_finite:
        raise UserError(
            f"{path} was written but did not pass its check: {count(len(not_finite), 'module')} with NaN or "
            f"infinite values (such as {not_finite[0]}). Choose the precision fp32, or another source."
        )
    ranks = Counter(adapter.rank for adapter in file.weights.values() if adapter.rank is not None)
    summary = {"lora": str(path), "modules": ranks.total(), "ranks": {str(rank): ranks[rank] for rank in sorted(ranks)}}
    energy = file.metadata.get(ENERGY_KEY)
    return summary if energy is None else {**summary, "energy_kept": float(energy)}
