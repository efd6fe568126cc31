"""Whether a run could go on from a snapshot, as far as that can be seen before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dreambooth.errors import UserError
from dreambooth.runs.interrupted import belongs
from dreambooth.settings import SETTINGS, ModelConfig, ModelFolder
from dreambooth.training import snapshot as snapshots
from dreambooth.training.snapshot_state import source_hash

# What decides which weights there are; of the text encoder's steps, only whether there are any.
_OF_SHAPES = ("use_lora", "train_unet", "lora_type", "lora_unet_rank", "lora_txt_rank", "use_lora_extended",
              "lora_conv_rank", "lora_dora", "lokr_factor", "stop_text_encoder", "train_imagic")  # fmt: skip


def problems_of(model: ModelFolder, config: ModelConfig, which: str) -> list[str]:
    """Why the run that ``config`` describes could not go on from the snapshot ``which``."""
    try:
        place = f"The snapshot {snapshots.find(model, which).name} of {model.name}"
    except UserError as error:
        return list(error.problems)
    try:
        snapshot = snapshots.read(model, which, tensors=False)
        facts = snapshot.facts
        if facts.get("origin", source_hash(model)) != source_hash(model):
            return [f"{place} is of another model: start a new run, or put the snapshot back where it was made."]
        if not belongs(facts, config.info):
            return [
                f"{place} is of an earlier run, and the model was trained since (to step {config.info.revision}): "
                "train without --resume."
            ]
        return _other_weights(place, snapshot.settings, dataclasses.asdict(config.settings))
    except UserError as error:
        return list(error.problems)
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{place} cannot be read ({error}): delete it to resume from an older one."]


def _other_weights(place: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    problems = []
    for key in _OF_SHAPES:
        setting, before, after = SETTINGS[key], then.get(key, now[key]), now[key]
        if key == "stop_text_encoder":
            before, after = before > 0, after > 0
        matters = setting.applies_to({**now, **then}) or setting.applies_to(now)
        if before != after and matters:
            problems.append(
                f"{key} ({setting.label}): {place} was trained with {then[key]!r} and can't go on with {now[key]!r}: "
                "set it back, or start a new run."
            )
    return problems
