"""Whether a run can be resumed from a snapshot, as far as can be checked before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dreambooth.errors import UserError
from dreambooth.runs.interrupted import belongs
from dreambooth.settings import SETTINGS, ModelConfig, ModelFolder
from dreambooth.training import snapshot as snapshots
from dreambooth.training.snapshot_state import source_hash

# Settings that decide which tensors are trained; of stop_text_encoder, only whether it is above 0.
_TENSOR_SETTINGS = ("use_lora", "train_unet", "lora_type", "lora_unet_rank", "lora_txt_rank", "use_lora_extended",
              "lora_conv_rank", "lora_dora", "lokr_factor", "stop_text_encoder", "train_imagic")  # fmt: skip


def problems_of(model: ModelFolder, config: ModelConfig, which: str) -> list[str]:
    """Why a run with this ``config`` cannot be resumed from the snapshot ``which``."""
    try:
        place = f"The snapshot {snapshots.find_snapshot(model, which).name} of {model.name}"
    except UserError as error:
        return list(error.problems)
    try:
        snapshot = snapshots.read_snapshot(model, which, tensors=False)
        facts = snapshot.facts
        if facts.get("origin", source_hash(model)) != source_hash(model):
            return [f"{place} was made with another source checkpoint: start a new run."]
        if not belongs(facts, config.info):
            return [
                f"{place} belongs to an earlier run, and the model has been trained since (to step "
                f"{config.info.revision}): train without --resume."
            ]
        return _different_tensors(place, snapshot.settings, dataclasses.asdict(config.settings))
    except UserError as error:
        return list(error.problems)
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{place} cannot be read ({error}): delete it to resume from an older snapshot."]


def _different_tensors(place: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    problems = []
    for key in _TENSOR_SETTINGS:
        setting, before, after = SETTINGS[key], then.get(key, now[key]), now[key]
        if key == "stop_text_encoder":
            before, after = before > 0, after > 0
        matters = setting.applies_to({**now, **then}) or setting.applies_to(now)
        if before != after and matters:
            problems.append(
                f"{key} ({setting.label}): {place} was trained with {then[key]!r} and cannot be resumed with "
                f"{now[key]!r}: "
                "change it back, or start a new run."
            )
    return problems
