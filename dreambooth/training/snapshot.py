"""Snapshots: the complete state of a run, to resume it exactly. Tensors in safetensors files, the rest in JSON."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.files import atomic_folder, read_json, require_free_space, write_json
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import write_tensors

LATEST, BEST = "latest", "best"
_GROUP_PREFIX = "group."


@dataclass
class Position:
    """Position in a run: ``epoch`` complete epochs, ``steps_in_epoch`` optimizer steps of the next, ``step`` in all."""

    epoch: int = 0
    steps_in_epoch: int = 0
    step: int = 0

    def as_dict(self) -> dict[str, int]:
        """As in snapshot.json, whose keys do not change."""
        return {"epoch": self.epoch, "window": self.steps_in_epoch, "step": self.step}

    @classmethod
    def from_dict(cls, values: Mapping[str, int]) -> Position:
        return cls(values["epoch"], values["window"], values["step"])


@dataclass
class Snapshot:
    """The state that is saved. ``tensors``: trained and EMA weights by name; ``optimizer``: its state_dict."""

    position: Position
    tensors: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # EMA updates, scaler, base, plan, revision at the start


def write_snapshot(model: ModelFolder, revision: int, snapshot: Snapshot, keep: int) -> Path:
    """Write ``snapshots/REVISION`` atomically, then delete all but the ``keep`` newest (0: delete none).

    The snapshot with the lowest validation loss, if it was measured, is never deleted.
    """
    state, scalars = _flatten(snapshot.optimizer)
    n_bytes = sum(t.numel() * t.element_size() for t in (*snapshot.tensors.values(), *state.values()))
    require_free_space(model.snapshots, n_bytes, "A snapshot")
    folder = model.snapshots / str(revision)
    with atomic_folder(folder) as tmp:
        write_tensors(tmp / "weights.safetensors", snapshot.tensors)
        write_tensors(tmp / "optimizer.safetensors", state)
        write_json(tmp / "snapshot.json", {
            "position": snapshot.position.as_dict(),
            "settings": snapshot.settings,
            "facts": snapshot.facts,
            "optimizer": scalars,
        })  # fmt: skip
    if keep:
        # Not by number: a restored backup of the settings may count from a lower revision.
        others = [step for step in model.snapshot_steps() if step != revision]
        for old in set(others[: max(0, len(others) + 1 - keep)]) - {best_snapshot(model)}:
            shutil.rmtree(model.snapshots / str(old), ignore_errors=True)
    return folder


def find_snapshot(model: ModelFolder, which: str = LATEST) -> Path:
    """The folder of a revision's snapshot, the latest or the best one. UserError when there is none."""
    steps = model.snapshot_steps()
    if not steps:
        raise UserError(f"{model.name} has no snapshot to resume from. Start a new run.")
    if which == BEST:
        which = str(best_snapshot(model) or BEST)
    if which != LATEST and which not in map(str, steps):
        raise UserError(f"{model.name} has no snapshot {which}; there are: {', '.join(map(str, steps))}, {LATEST}.")
    return model.snapshots / (str(steps[-1]) if which == LATEST else which)


def read_snapshot(model: ModelFolder, which: str = LATEST, tensors: bool = True) -> Snapshot:
    """The snapshot in the folder that :func:`find_snapshot` returns; without ``tensors``, only its JSON.

    UserError when there is none or it cannot be read.
    """
    folder = find_snapshot(model, which)
    try:
        saved = read_json(folder / "snapshot.json")
        return Snapshot(
            Position.from_dict(saved["position"]),
            _read_tensors(folder / "weights.safetensors") if tensors else {},
            _unflatten(_read_tensors(folder / "optimizer.safetensors"), saved["optimizer"]) if tensors else {},
            saved["settings"],
            saved["facts"],
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The snapshot {folder} is damaged ({error}). Delete it to resume from an older one."
        ) from error


def best_snapshot(model: ModelFolder) -> int | None:
    """The newest run's snapshot with the lowest validation loss; None if it was not measured."""
    losses: dict[int, float] = {}
    run = None
    for step in reversed(model.snapshot_steps()):
        try:
            facts = read_json(model.snapshots / str(step) / "snapshot.json")["facts"]
        except (UserError, KeyError, TypeError):
            continue
        run = run or facts.get("run")
        if facts.get("run") == run and facts.get("validation_loss") is not None:
            losses[step] = facts["validation_loss"]
    return min(losses, key=losses.__getitem__, default=None)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_tensors(path) as file:
        return {key: file.get(key) for key in file}


def _flatten(state_dict: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors and other values, both named "INDEX/KEY". 8-bit optimizers nest deeper.

    Tensors in parameter groups are named "group.INDEX/KEY".
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            tensors[name] = value
        else:
            scalars[name] = value

    for index, state in state_dict["state"].items():
        walk(state, str(index))
    for index, group in enumerate(state_dict["param_groups"]):
        tensors |= {f"{_GROUP_PREFIX}{index}/{k}": v for k, v in group.items() if isinstance(v, torch.Tensor)}
    groups = [{k: v for k, v in group.items() if _is_plain(v)} for group in state_dict["param_groups"]]
    return tensors, {"scalars": scalars, "param_groups": groups}


def _unflatten(tensors: dict[str, torch.Tensor], saved: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    groups = [dict(group) for group in saved["param_groups"]]
    for name, value in {**tensors, **saved["scalars"]}.items():
        index, *keys = name.split("/")
        if index.startswith(_GROUP_PREFIX):
            groups[int(index.removeprefix(_GROUP_PREFIX))][keys[0]] = value
            continue
        parent = state.setdefault(int(index), {})
        for key in keys[:-1]:
            parent = parent.setdefault(key, {})
        parent[keys[-1]] = value
    return {"state": state, "param_groups": groups}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple))
