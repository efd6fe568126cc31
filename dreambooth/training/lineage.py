"""Which snapshots belong together: branches of a run, the newest snapshot, and which ones to delete. Pure functions.

Each start of the trainer is a branch: it continues the snapshot that it was resumed from, and its own snapshots carry
its id. The path of a snapshot lists the branches that led to it, with the revision at which the next one left each.
Resuming an earlier snapshot therefore abandons the later snapshots of that branch: they are not on the new path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Standing = Literal["current", "abandoned", "earlier run"]


@dataclass(frozen=True)
class SnapshotEntry:
    """A snapshot as snapshot.json and its folder describe it."""

    name: str  # of its folder
    revision: int  # optimizer steps over the model's lifetime
    step: int = 0  # optimizer steps of its run
    epoch: int = 0  # complete epochs of its run
    run: str = ""
    run_before: str = ""
    branch: str = ""
    path: tuple[tuple[str, int], ...] = ()  # (branch, last revision of it that led here), without its own
    order: int = 0  # counts up whenever a snapshot is saved or resumed; 0 in snapshots of older versions
    saved: float = 0.0  # seconds since 1970
    automatic: bool = False  # saved by Autosave or when the process was told to end, not asked for
    results_saved: bool = True  # whether what the run saves at its end was saved from this state
    validation_loss: float | None = None
    n_bytes: int = 0
    folder: Path = Path()
    problem: str = ""  # why it can't be used

    def leads_to(self, other: SnapshotEntry) -> bool:
        """Whether ``other`` is this snapshot, or was trained on from it."""
        path = {**dict(other.path), other.branch: other.revision}
        return self.run == other.run and self.revision <= path.get(self.branch, -1)

    def standing(self, newest: SnapshotEntry | None) -> Standing:
        """Its relation to the ``newest`` snapshot."""
        if newest is None or self.run != newest.run:
            return "earlier run"
        return "current" if self.leads_to(newest) else "abandoned"


@dataclass(frozen=True)
class LastRecord:
    """What db_config.json says about the model's last run: its id, and the revision of its last save."""

    run: str = ""
    revision: int = 0


def newest_first(entries: Iterable[SnapshotEntry], last: LastRecord) -> list[SnapshotEntry]:
    """Usable snapshots, the one that was saved or resumed last first.

    ``order`` decides, so that neither clocks nor copied files matter. Snapshots of older versions lack it: of these,
    the one that db_config.json recorded last is the newest, and those with a higher revision are from an abandoned
    branch. Otherwise the time of their files decides, then the revision.
    """

    def key(entry: SnapshotEntry) -> tuple[Any, ...]:
        is_of_last_run = bool(last.run) and entry.run == last.run
        recorded = 0
        if not entry.order and is_of_last_run and entry.revision <= last.revision:
            recorded = 2 if entry.revision == last.revision else 1
        return (entry.order, recorded, entry.saved, entry.revision, entry.name == str(entry.revision))

    return sorted((entry for entry in entries if not entry.problem), key=key, reverse=True)


def resumable(entry: SnapshotEntry, last: LastRecord) -> bool:
    """Whether it is of the run that trained the model last.

    A run that was killed before its first save was recorded leaves the run before it as the model's last.
    """
    return last.run in (entry.run, entry.run_before)


def newest(entries: Iterable[SnapshotEntry], last: LastRecord) -> SnapshotEntry | None:
    """The snapshot to resume by default: the newest of the model's last run, else the newest of all."""
    ordered = newest_first(entries, last)
    return next((entry for entry in ordered if resumable(entry, last)), ordered[0] if ordered else None)


def best(entries: Sequence[SnapshotEntry], head: SnapshotEntry | None) -> SnapshotEntry | None:
    """The snapshot with the lowest validation loss that led to ``head``; None if it was not measured."""
    measured = [e for e in entries if head and not e.problem and e.validation_loss is not None and e.leads_to(head)]
    return min(measured, key=lambda e: (e.validation_loss or 0.0, -e.revision), default=None)


def outdated(entries: Sequence[SnapshotEntry], head: SnapshotEntry, keep: int) -> list[SnapshotEntry]:
    """The snapshots to delete once ``head`` is complete.

    Of automatic snapshots only ``head`` itself stays. Of the others, the ``keep`` newest that led to ``head`` stay, and
    the ``keep`` newest of all branches and runs, so that an abandoned branch lasts until as many newer ones exist
    (0 keeps all). The best one stays, as do damaged ones and copies that users made, which have other names.
    """
    ours = [entry for entry in newest_first(entries, LastRecord()) if is_snapshot_name(entry.name)]
    automatic = [entry for entry in ours if entry.automatic and entry != head]
    if not keep:
        return automatic
    requested = [entry for entry in ours if not entry.automatic]
    current = sorted((e for e in requested if e.leads_to(head)), key=lambda e: (e.revision, e.order), reverse=True)
    stay = [*current[:keep], *requested[:keep], best(entries, head), head]
    return [*automatic, *(entry for entry in requested if entry not in stay)]


def aside_name(name: str, taken: Iterable[str]) -> str:
    """A free name for a snapshot of another branch that has the same revision: NAME-2, NAME-3, ..."""
    names, n = set(taken), 2
    while f"{name}-{n}" in names:
        n += 1
    return f"{name}-{n}"


def is_snapshot_name(name: str) -> bool:
    """Whether the trainer gives folders such names; users may have copies with others."""
    revision, dash, n = name.partition("-")
    return all(part.isascii() and part.isdigit() for part in ((revision, n) if dash else (revision,)))
