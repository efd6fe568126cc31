"""Snapshots: the complete state of a run, to resume it exactly. Tensors in safetensors files, the rest in JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dreambooth.checkpoints.reading import open_tensors
from dreambooth.errors import UserError
from dreambooth.files import atomic_folder, read_json, remove_folder, require_free_space, write_json
from dreambooth.settings import ModelFolder
from dreambooth.tensor_files import write_tensors
from dreambooth.training import lineage
from dreambooth.training.lineage import SnapshotEntry
from dreambooth.training.snapshot_list import SnapshotList, list_snapshots, read_entry

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
    """Write ``snapshots/REVISION`` atomically, then delete what :func:`lineage.outdated` names (``keep`` 0: keep all).

    A snapshot of another branch with the same revision is moved to ``abandoned/REVISION-2``, -3, ... first.
    """
    state, scalars = _flatten(snapshot.optimizer)
    n_bytes = sum(t.numel() * t.element_size() for t in (*snapshot.tensors.values(), *state.values()))
    require_free_space(model.snapshots, n_bytes, "A snapshot")
    before = list_snapshots(model)
    folder = model.snapshots / str(revision)
    facts = {**snapshot.facts, "order": _next_order(before), "saved": round(time.time(), 3)}
    with atomic_folder(folder) as tmp:
        write_tensors(tmp / "weights.safetensors", snapshot.tensors)
        write_tensors(tmp / "optimizer.safetensors", state)
        write_json(tmp / "snapshot.json", {
            "position": snapshot.position.as_dict(),
            "settings": snapshot.settings,
            "facts": facts,
            "optimizer": scalars,
        })  # fmt: skip
        _set_aside(model, folder, before, read_entry(tmp))
    written = list_snapshots(model)
    head = written.named(folder.name)
    for entry in lineage.outdated(written.entries, head, keep) if head else ():
        remove_folder(entry.folder)
    return folder


def is_saved(model: ModelFolder, revision: int, branch: str) -> bool:
    """Whether this state is in a snapshot that was asked for, which an automatic one must not replace."""
    entry = list_snapshots(model).named(str(revision))
    return entry is not None and not entry.problem and not entry.automatic and entry.branch == branch


def remove_automatic(model: ModelFolder) -> None:
    """Delete the automatic snapshots, once the run has ended and saved its results."""
    for entry in list_snapshots(model).usable:
        if entry.automatic and lineage.is_snapshot_name(entry.name):
            remove_folder(entry.folder)


def mark_snapshot(folder: Path, **facts: Any) -> None:
    """Change facts of a saved snapshot. Its tensors stay as they are. UserError if it can't be written."""
    saved = read_json(folder / "snapshot.json")
    saved["facts"] |= facts
    write_json(folder / "snapshot.json", saved)


def mark_resumed(model: ModelFolder, name: str) -> None:
    """Make a snapshot the newest, because a run continues from it: the next resume takes this branch too."""
    snapshots = list_snapshots(model)
    entry = snapshots.named(name)
    newest = snapshots.usable[0] if snapshots.usable else None
    if entry and not (entry == newest and entry.order):
        mark_snapshot(entry.folder, order=_next_order(snapshots), saved=entry.saved)


def find_entry(model: ModelFolder, which: str = LATEST) -> SnapshotEntry:
    """The snapshot of this name, the latest or the best one. UserError when there is none or it is damaged."""
    snapshots = list_snapshots(model)
    which = which.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]  # also a path
    if not snapshots.entries:
        raise UserError(f"{model.name} has no snapshot to resume from. Start a new run.")
    special = {LATEST: snapshots.newest, BEST: snapshots.best}
    which = which.lower() if which.lower() in special else which
    entry = special[which] if which in special else snapshots.named(which)
    if entry and entry.problem:
        instead = f"resume from {snapshots.newest.name}" if snapshots.newest else "start a new run"
        raise UserError(f"The snapshot {entry.folder} is damaged ({entry.problem}). Delete it, and {instead}.")
    if entry:
        return entry
    if not snapshots.usable:
        names = ", ".join(found.name for found in snapshots.damaged)
        raise UserError(f"All snapshots of {model.name} are damaged ({names}): delete them and start a new run.")
    if which == BEST:
        raise UserError(
            f"{model.name} has no best snapshot, because no validation loss was measured: use {LATEST} or one of "
            f"{_names(snapshots)}."
        )
    raise UserError(f"{model.name} has no snapshot {which}; there are: {_names(snapshots)}, {LATEST}.")


def find_snapshot(model: ModelFolder, which: str = LATEST) -> Path:
    """The folder of :func:`find_entry`."""
    return find_entry(model, which).folder


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
    """Revision of the snapshot with the lowest validation loss, of those that led to the newest; None without one."""
    best = list_snapshots(model).best
    return best.revision if best else None


def _names(snapshots: SnapshotList) -> str:
    """The names of all usable snapshots, in order of their revisions."""
    return ", ".join(entry.name for entry in sorted(snapshots.usable, key=lambda entry: (entry.revision, entry.name)))


def _next_order(snapshots: SnapshotList) -> int:
    return 1 + max((entry.order for entry in snapshots.entries), default=0)


def _set_aside(model: ModelFolder, folder: Path, before: SnapshotList, new: SnapshotEntry | None) -> None:
    """Move the snapshot that the ``new`` one would replace to ``abandoned``, if it belongs to another branch."""
    existing = before.named(folder.name)
    if not existing or not new or existing.problem or existing.automatic:
        return
    if not existing.leads_to(replace(new, revision=existing.revision)):
        model.abandoned.mkdir(exist_ok=True)
        os.replace(folder, model.abandoned / lineage.aside_name(folder.name, os.listdir(model.abandoned)))


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
