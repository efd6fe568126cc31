"""The snapshots of a model, read without loading their tensors. A damaged one is listed with its problem, never raised.

Needs no torch and reads each file once until it changes, so that the page can poll it.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json
from dreambooth.safetensors_header import read_header
from dreambooth.settings import ModelFolder
from dreambooth.text import format_bytes
from dreambooth.training import lineage
from dreambooth.training.lineage import LastRecord, SnapshotEntry, Standing

FACTS_FILE, TENSOR_FILES = "snapshot.json", ("weights.safetensors", "optimizer.safetensors")
_STANDINGS: dict[Standing, str] = {
    "current": "current run",
    "abandoned": "abandoned branch",
    "earlier run": "earlier run",
}


@dataclass(frozen=True)
class SnapshotList:
    """All snapshots of a model, newest first and damaged ones last, and the one to resume by default."""

    entries: tuple[SnapshotEntry, ...]
    newest: SnapshotEntry | None

    @property
    def usable(self) -> tuple[SnapshotEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.problem)

    @property
    def damaged(self) -> tuple[SnapshotEntry, ...]:
        return tuple(entry for entry in self.entries if entry.problem)

    @property
    def best(self) -> SnapshotEntry | None:
        return lineage.best(self.entries, self.newest)

    def named(self, name: str) -> SnapshotEntry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def warnings(self) -> list[str]:
        """A line for each damaged snapshot, which a resume skips."""
        return [
            f"The snapshot {entry.folder} is damaged ({entry.problem}) and is skipped: delete it."
            for entry in self.damaged
        ]

    def describe(self, entry: SnapshotEntry) -> str:
        """One line: name, epoch, step, time, size, and the branch that it belongs to."""
        if entry.problem:
            return f"{entry.name} · damaged: {entry.problem}"
        standing = _STANDINGS[entry.standing(self.newest)]
        parts = [
            entry.name,
            f"epoch {entry.epoch}, step {entry.step}",
            format_time(entry.saved),
            format_bytes(entry.n_bytes),
            f"{standing}, automatic" if entry.automatic else standing,
        ]
        return " · ".join(parts)

    def as_dicts(self) -> list[dict[str, Any]]:
        """For JSON output."""
        return [
            {
                "name": entry.name,
                "revision": entry.revision,
                "step": entry.step,
                "epoch": entry.epoch,
                "saved": format_time(entry.saved) if entry.saved else "",
                "size_bytes": entry.n_bytes,
                "branch": "damaged" if entry.problem else _STANDINGS[entry.standing(self.newest)],
                "automatic": entry.automatic,
                "latest": self.newest is not None and entry.name == self.newest.name,
                "problem": entry.problem,
            }
            for entry in self.entries
        ]


def list_snapshots(model: ModelFolder) -> SnapshotList:
    """All snapshots of the model, also those that were moved to ``abandoned``. Never raises."""
    folders = [*_folders_in(model.snapshots), *_folders_in(model.abandoned)]
    entries = [entry for entry in map(read_entry, folders) if entry]
    last = last_record(model)
    ordered = lineage.newest_first(entries, last)
    damaged = [entry for entry in entries if entry.problem]
    return SnapshotList((*ordered, *damaged), lineage.newest(entries, last))


def _folders_in(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return []


def last_record(model: ModelFolder) -> LastRecord:
    """Read from db_config.json; empty if that is damaged, which other code reports."""
    try:
        values = read_json(model.config_path)
        run, revision = values.get("run", ""), values.get("revision", 0)
    except (UserError, AttributeError):
        return LastRecord()
    return LastRecord(run if isinstance(run, str) else "", revision if isinstance(revision, int) else 0)


def read_entry(folder: Path) -> SnapshotEntry | None:
    """The snapshot in ``folder``; None for a folder that is none."""
    try:
        state = tuple(_state_of(folder / name) for name in (FACTS_FILE, *TENSOR_FILES))
    except OSError as error:
        state = ()
        if not lineage.is_snapshot_name(folder.name):
            return None
        missing = Path(error.filename or folder).name
        return _damaged(folder, f"{missing} is missing" if isinstance(error, FileNotFoundError) else str(error))
    return _read_entry(folder, state)


def format_time(seconds: float) -> str:
    """A time as people read it, in the local time zone."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "unknown time"


def _state_of(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=1024)
def _read_entry(folder: Path, state: tuple[tuple[int, int], ...]) -> SnapshotEntry:
    """``state``: times and sizes of the files, part of the cache key."""
    try:
        saved = read_json(folder / FACTS_FILE)
        entry = _entry(folder, saved["position"], saved["facts"], state)
        if not isinstance(saved["settings"], dict) or not isinstance(saved["optimizer"], dict):
            raise TypeError("settings and optimizer must be objects")
        for name in TENSOR_FILES:
            with open(folder / name, "rb") as file:
                read_header(folder / name, file)
    except UserError as error:
        return _damaged(folder, str(error).replace(f"{folder}{os.sep}", "").rstrip("."))
    except Exception as error:  # whatever is wrong with it, it must not keep the others from being listed
        return _damaged(folder, f"{FACTS_FILE} cannot be read ({type(error).__name__}: {error})")
    return entry


def _entry(
    folder: Path, position: Mapping[str, Any], facts: Mapping[str, Any], state: tuple[tuple[int, int], ...]
) -> SnapshotEntry:
    step, run = int(position["step"]), str(facts.get("run") or "")
    int(position["window"])
    default_revision = int(folder.name.partition("-")[0]) if lineage.is_snapshot_name(folder.name) else step
    revision = int(facts["revision_at_start"]) + step if "revision_at_start" in facts else default_revision
    loss = facts.get("validation_loss")
    saved = float(facts.get("saved") or state[0][0] / 1e9)
    return SnapshotEntry(
        name=folder.name,
        revision=revision,
        step=step,
        epoch=int(position["epoch"]),
        run=run,
        run_before=str(facts.get("run_before") or ""),
        branch=str(facts.get("branch") or run),
        path=tuple((str(branch), int(last)) for branch, last in facts.get("path") or ()),
        order=int(facts.get("order") or 0),
        saved=saved if math.isfinite(saved) else 0.0,
        automatic=bool(facts.get("automatic")),
        results_saved=bool(facts.get("results_saved", True)),
        validation_loss=None if loss is None else float(loss),
        n_bytes=sum(size for _, size in state),
        folder=folder,
    )


def _damaged(folder: Path, problem: str) -> SnapshotEntry:
    name = folder.name
    revision = int(name.partition("-")[0]) if lineage.is_snapshot_name(name) else 0
    return SnapshotEntry(name, revision, problem=problem, folder=folder)
