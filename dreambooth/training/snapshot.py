"""Snapshots: all that decides how a run goes on. Tensors in safetensors files, the rest in readable JSON."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.files import read_json, atomic_folder, require_free_space, write_json
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import write_tensors

LATEST, BEST = "latest", "best"
_GROUP = "group."


@dataclass
class Position:
    """Where a run stands: ``epoch`` epochs are whole, ``window`` optimizer steps of the next one are done."""

    epoch: int = 0
    window: int = 0
    step: int = 0


@dataclass
class Snapshot:
    """What :func:`write` keeps. ``tensors``: trained weights and averages by name; ``optimizer``: its state_dict."""

    position: Position
    tensors: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # ema updates, scaler, base, plan, revision at the start


def write(model: ModelFolder, revision: int, snapshot: Snapshot, keep: int) -> Path:
    """Write ``snapshots/REVISION`` whole or not at all.

    Then all but the ``keep`` newest are dropped (0: none is); the best one stays in any case, where that was measured.
    """
    state, scalars = _flatten(snapshot.optimizer)
    n_bytes = sum(t.numel() * t.element_size() for t in (*snapshot.tensors.values(), *state.values()))
    require_free_space(model.snapshots, n_bytes, "A snapshot")
    folder = model.snapshots / str(revision)
    with atomic_folder(folder) as beside:
        write_tensors(beside / "weights.safetensors", snapshot.tensors)
        write_tensors(beside / "optimizer.safetensors", state)
        write_json(beside / "snapshot.json", {
            "position": asdict(snapshot.position),
            "settings": snapshot.settings,
            "facts": snapshot.facts,
            "optimizer": scalars,
        })  # fmt: skip
    if keep:
        others = [step for step in model.snapshot_steps() if step != revision]  # settings put back may count from lower
        for old in set(others[: max(0, len(others) + 1 - keep)]) - {best(model)}:
            shutil.rmtree(model.snapshots / str(old), ignore_errors=True)
    return folder


def find(model: ModelFolder, which: str = LATEST) -> Path:
    """The folder of a revision's snapshot, the latest or the best one. UserError when there is none."""
    steps = model.snapshot_steps()
    if not steps:
        raise UserError(f"{model.name} has no snapshot to resume from: start a new run.")
    if which == BEST:
        which = str(best(model) or BEST)
    if which != LATEST and which not in map(str, steps):
        raise UserError(f"{model.name} has no snapshot {which}; there are: {', '.join(map(str, steps))}, {LATEST}.")
    return model.snapshots / (str(steps[-1]) if which == LATEST else which)


def read(model: ModelFolder, which: str = LATEST, tensors: bool = True) -> Snapshot:
    """What is in the folder that :func:`find` finds; without ``tensors``, only what is quick to read.

    UserError when there is none or it cannot be read.
    """
    folder = find(model, which)
    try:
        about = read_json(folder / "snapshot.json")
        return Snapshot(
            Position(**about["position"]),
            _read(folder / "weights.safetensors") if tensors else {},
            _unflatten(_read(folder / "optimizer.safetensors"), about["optimizer"]) if tensors else {},
            about["settings"],
            about["facts"],
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The snapshot {folder} cannot be read ({error}): delete it to resume from an older one."
        ) from error


def best(model: ModelFolder) -> int | None:
    """The newest run's snapshot with the lowest validation loss; None where nothing was measured."""
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


def _read(path: Path) -> dict[str, torch.Tensor]:
    with open_tensors(path) as file:
        return {key: file.get(key) for key in file}


def _flatten(state_dict: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors named "INDEX/KEY" and the rest; 8-bit optimizers nest deeper.

    Some keep tensors in their groups: "group.INDEX/KEY".
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
        tensors |= {f"{_GROUP}{index}/{k}": v for k, v in group.items() if isinstance(v, torch.Tensor)}
    groups = [{k: v for k, v in group.items() if _is_plain(v)} for group in state_dict["param_groups"]]
    return tensors, {"scalars": scalars, "param_groups": groups}


def _unflatten(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    groups = [dict(group) for group in rest["param_groups"]]
    for name, value in {**tensors, **rest["scalars"]}.items():
        index, *keys = name.split("/")
        if index.startswith(_GROUP):
            groups[int(index.removeprefix(_GROUP))][keys[0]] = value
            continue
        place = state.setdefault(int(index), {})
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    return {"state": state, "param_groups": groups}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, tuple))
