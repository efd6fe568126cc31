"""What the page shows of runs that can be resumed: the offer, the snapshots, and a line of the model's summary.

Polled once a second. Nothing here raises: a damaged file must not keep the page from being shown.
"""

from __future__ import annotations

from dreambooth.settings import ModelFolder
from dreambooth.text import count, format_bytes
from dreambooth.ui import render

NONE = "none"
LATEST, BEST = "latest", "best"


def snapshot_choices(model: ModelFolder) -> list[tuple[str, str]]:
    """(title, name) of the snapshots that a run can resume from, newest first."""
    from dreambooth.training.snapshot_list import list_snapshots

    snapshots = list_snapshots(model)
    special = [LATEST] if snapshots.newest else []
    special += [BEST] if snapshots.best else []
    entries = [(snapshots.describe(entry), entry.name) for entry in snapshots.usable]
    return [*((name, name) for name in (NONE, *special)), *entries]


def snapshot_name(title: str | None) -> str:
    """The name of the snapshot with this title. Gradio 3 has no titles for choices, so the page sends the title."""
    return (title or NONE).partition(" · ")[0]


def resume_offer(model: ModelFolder) -> str:
    """HTML: what was interrupted and can be continued; "" if nothing."""
    from dreambooth.runs.interrupted import interrupted_run

    found = interrupted_run(model)
    return render.lines([found.summary(model.name)]) if found else ""


def damaged_snapshots(model: ModelFolder) -> str:
    """HTML: the snapshots that can't be used; "" if there are none."""
    from dreambooth.training.snapshot_list import list_snapshots

    return render.lines(list_snapshots(model).warnings(), "db_warning")


def snapshots_in_short(model: ModelFolder) -> str:
    """Number and size of all snapshots, and the newest one."""
    from dreambooth.training.snapshot_list import format_time, list_snapshots

    snapshots = list_snapshots(model)
    newest = snapshots.newest
    if newest is None:
        return "none"
    size = format_bytes(sum(entry.n_bytes for entry in snapshots.usable))
    n = count(len(snapshots.usable), "snapshot")
    return f"{n}, {size} · newest: step {newest.step:,}, saved {format_time(newest.saved)}"
