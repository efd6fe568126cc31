"""Whether a run can be resumed from a snapshot, as far as can be checked before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dreambooth.errors import UserError
from dreambooth.settings import SETTINGS, ModelConfig, ModelFolder
from dreambooth.text import count
from dreambooth.training import lineage
from dreambooth.training import snapshot as snapshots
from dreambooth.training.lineage import LastRecord, SnapshotEntry
from dreambooth.training.snapshot_list import list_snapshots
from dreambooth.training.snapshot_state import source_hash

# Settings that decide which tensors are trained; of stop_text_encoder, only whether it is above 0.
_TENSOR_SETTINGS = ("use_lora", "train_unet", "lora_type", "lora_layers", "lora_ranks", "lora_unet_rank",
                    "lora_txt_rank", "use_lora_extended", "lora_conv_rank", "lora_dora", "lokr_factor",
                    "stop_text_encoder", "train_imagic")  # fmt: skip


def problems_of(model: ModelFolder, config: ModelConfig, which: str) -> list[str]:
    """Why a run with this ``config`` cannot be resumed from the snapshot ``which``."""
    try:
        entry = snapshots.find_entry(model, which)
    except UserError as error:
        return list(error.problems)
    place = f"The snapshot {entry.name} of {model.name}"
    try:
        snapshot = snapshots.read_snapshot(model, entry.name, tensors=False)
        if snapshot.facts.get("origin", source_hash(model)) != source_hash(model):
            return [f"{place} was made with another source checkpoint: start a new run."]
        if not lineage.resumable(entry, LastRecord(config.info.run)):
            return [
                f"{place} belongs to an earlier run, and the model has been trained since (to step "
                f"{config.info.revision}): train without --resume."
            ]
        return _different_tensors(place, snapshot.settings, dataclasses.asdict(config.settings))
    except UserError as error:
        return list(error.problems)
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{place} cannot be read ({error}): delete it to resume from an older snapshot."]


def left_behind(model: ModelFolder, entry: SnapshotEntry, keep: int) -> list[str]:
    """What resuming from ``entry`` means for snapshots of its run that were saved later, as at most one line."""
    later = [e.name for e in list_snapshots(model).usable if e.run == entry.run and not e.leads_to(entry)]
    if not later:
        return []
    ends = f"until {count(keep, 'newer snapshot')} exist" if keep > 1 else "until the next snapshot is saved"
    return [
        f"Not part of the resumed run: {', '.join(sorted(later))}. These snapshots are kept as an abandoned branch"
        f"{f' {ends}' if keep else ''}; resume from one by its name to continue that branch."
    ]


def nothing_left(model: ModelFolder, config: ModelConfig, which: str, steps: int) -> tuple[int, str] | None:
    """(step, one line that says so) if the run of ``steps`` that continues the snapshot ``which`` is already trained.

    A state whose results were never saved, because the run was canceled or saving failed, has its results left to save.
    """
    entry, settings = snapshots.find_entry(model, which), config.settings
    if entry.step < steps or not entry.results_saved:
        return None
    by_steps = settings.max_train_steps and settings.max_train_steps <= entry.step
    limit = "max_train_steps" if by_steps else "num_train_epochs"
    trained = f"{entry.step:,} of {settings.max_train_steps:,} steps"
    if not by_steps:
        trained = f"{entry.epoch:,} of {settings.num_train_epochs:,} epochs (step {entry.step:,} of {steps:,})"
    return entry.step, (
        f"Nothing left to train: snapshot {entry.name} of {model.name} has already trained {trained}. Nothing was "
        f"saved. To train longer, raise {limit} ({SETTINGS[limit].label})."
    )


def _different_tensors(place: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    problems = []
    for key in _TENSOR_SETTINGS:
        setting = SETTINGS[key]
        saved, after = then.get(key, setting.default), now[key]  # snapshots lack the settings that came later
        before = saved
        if key == "stop_text_encoder":
            before, after = before > 0, after > 0
        matters = setting.applies_to({**now, **then}) or setting.applies_to(now)
        if before != after and matters:
            problems.append(
                f"{key} ({setting.label}): {place} was trained with {saved!r} and cannot be resumed with "
                f"{now[key]!r}: "
                "change it back, or start a new run."
            )
    return problems
