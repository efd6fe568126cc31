"""Which snapshot is the newest, what belongs to the current branch, and what is deleted: as values, without files."""

from __future__ import annotations

import pytest

from dreambooth.training.lineage import (
    LastRecord,
    SnapshotEntry,
    aside_name,
    best,
    is_snapshot_name,
    newest,
    newest_first,
    outdated,
    resumable,
)

RUN = LastRecord("run", 10)


def old(revision: int, saved: float = 0.0, run: str = "run", **more) -> SnapshotEntry:
    """As versions wrote it that recorded neither branch nor order."""
    return SnapshotEntry(str(revision), revision, step=revision, run=run, branch=run, saved=saved, **more)


def new(revision: int, order: int, branch: str = "a", path=(), name: str = "", **more) -> SnapshotEntry:
    return SnapshotEntry(
        name or str(revision), revision, step=revision, **{"run": "run", "saved": 1000.0, **more},
        branch=branch, path=tuple(path), order=order,
    )  # fmt: skip


BACK_TO_8 = [("a", 8)]  # the path of a branch that was resumed from snapshot 8 of branch a
BRANCHED = [new(8, 4), new(10, 2, name="10-2"), new(12, 3), new(10, 5, "b", BACK_TO_8)]


@pytest.mark.parametrize(
    ("entries", "last", "expected"),
    [
        ([new(8, 1), new(10, 2), new(12, 3)], RUN, "12"),
        (BRANCHED, RUN, "10"),
        ([*BRANCHED, new(12, 6, "c", [("a", 12)], name="12-2")], RUN, "12-2"),  # back to the abandoned branch
        ([new(10, 2, saved=99.0), new(12, 1, saved=5000.0)], RUN, "10"),  # the clock was set back in between
        ([new(10, 2, saved=99.0), new(12, 1, saved=99.0)], RUN, "10"),  # copied: all files have one time
        ([old(8, 1.0), old(10, 3.0), old(12, 2.0)], RUN, "10"),
        ([old(8, 5.0), old(10, 5.0), old(12, 5.0)], RUN, "10"),  # equal times: as db_config.json recorded
        ([old(8, 3.0), old(10, 1.0), old(12, 9.0)], RUN, "10"),  # a clock that was set back
        ([old(8, 5.0), old(10, 5.0), old(12, 5.0)], LastRecord("run", 11), "10"),  # a LoRA was saved at 11
        ([old(8, 1.0), old(12, 2.0)], LastRecord("run", 12), "12"),
        ([old(8, 2.0), old(12, 1.0)], LastRecord("", 0), "8"),  # killed before it was recorded: the time decides
        ([old(8, 2.0), old(12, 2.0)], LastRecord("", 0), "12"),  # nothing else tells them apart
        ([old(12, 9e9), new(4, 1, run="run")], RUN, "4"),  # the program was updated in between
        ([new(12, 3, problem="cut off"), new(10, 2), new(8, 1)], RUN, "10"),
        ([new(20, 9, run="other"), new(10, 2)], RUN, "10"),  # a run that was never recorded as the last one
        ([new(20, 9, run="other", run_before="run"), new(10, 2)], RUN, "20"),  # killed before it was recorded
        ([new(10, 2, run="other")], RUN, "10"),  # refused later, with the reason
        ([new(10, 2, problem="cut off")], RUN, None),
        ([], RUN, None),
    ],
)
def test_the_newest_snapshot(entries, last, expected):
    for order in (entries, entries[::-1]):
        found = newest(order, last)
        assert (found.name if found else None) == expected


def test_each_snapshot_stands_on_the_current_branch_or_not():
    head = newest(BRANCHED, RUN)
    assert {e.name: e.standing(head) for e in [*BRANCHED, new(2, 1, run="before")]} == {
        "8": "current", "10-2": "abandoned", "12": "abandoned", "10": "current", "2": "earlier run",
    }  # fmt: skip
    grown = new(20, 9, "d", [*BACK_TO_8, ("b", 10), ("c", 14)])
    stays = [new(14, 6, "c", [*BACK_TO_8, ("b", 10)]), new(10, 5, "b", BACK_TO_8), new(6, 1)]
    assert all(entry.leads_to(grown) for entry in stays)
    assert not new(15, 7, "c").leads_to(grown) and not new(9, 2).leads_to(grown)
    assert old(8).leads_to(old(10)) and not old(12).leads_to(old(10)) and not old(8, run="x").leads_to(old(10))
    assert old(8).leads_to(new(10, 1, "b", [("run", 8)])), "resumed by a newer version"


@pytest.mark.parametrize(
    ("entries", "keep", "expected"),
    [
        ([new(8, 1), new(10, 2), new(12, 3)], 2, ["8"]),
        ([new(8, 1), new(10, 2), new(12, 3)], 0, []),
        ([new(8, 1), new(10, 2), new(12, 3)], 1, ["10", "8"]),
        (BRANCHED, 3, ["10-2"]),
        (BRANCHED, 2, ["10-2", "12"]),  # 10 and 8 are the newest, and the current branch
        ([*BRANCHED, new(12, 6, "b", BACK_TO_8, name="12-2")], 2, ["10-2", "12", "8"]),
        ([old(8, 1.0), old(12, 2.0), new(10, 1, "b", [("run", 8)])], 2, []),  # 12 is one of the two newest of all
        ([old(8, 1.0), old(12, 2.0), new(10, 1, "b", [("run", 8)])], 1, ["12", "8"]),
        ([new(8, 1), new(9, 2, automatic=True), new(10, 3)], 2, ["9"]),
        ([new(8, 1), new(9, 2, automatic=True), new(10, 3, automatic=True)], 0, ["9"]),
        ([new(6, 1), new(8, 2), new(10, 3, automatic=True)], 1, ["6"]),  # automatic ones don't count
        ([new(6, 1, name="6 (good)"), new(8, 2), new(10, 3)], 1, ["8"]),  # a copy that someone made
        ([new(6, 1, problem="cut off"), new(8, 2), new(10, 3)], 1, ["8"]),
        ([new(6, 1, validation_loss=0.1), new(8, 2, validation_loss=0.2), new(10, 3)], 1, ["8"]),
        ([new(6, 1, run="before"), new(8, 2, run="before"), new(10, 3)], 1, ["6", "8"]),
    ],
)
def test_what_is_deleted_after_a_snapshot(entries, keep, expected):
    head = newest_first(entries, RUN)[0]
    assert sorted(entry.name for entry in outdated(entries, head, keep)) == sorted(expected)
    assert head not in outdated(entries, head, keep)


@pytest.mark.parametrize("keep", [1, 2, 3, 7])
def test_abandoned_branches_end_and_the_current_one_keeps_its_last(keep):
    """A run that goes back again and again: never more than twice ``keep``, and never without a snapshot to go on."""
    entries: list[SnapshotEntry] = []
    path: list[tuple[str, int]] = []
    order, branch, revision = 0, 0, 0
    for turn in range(60):
        order, revision = order + 1, revision + 2
        head = new(revision, order, str(branch), path, name=f"{revision}-{order}")
        entries.append(head)
        gone = outdated(entries, head, keep)
        entries = [entry for entry in entries if entry not in gone]
        current = [entry for entry in entries if entry.leads_to(head)]
        assert len(entries) <= 2 * keep and len(current) >= min(keep, len(current)) >= 1 and head in current
        assert newest(entries, RUN) == head
        if turn % 5 == 4:  # back to the oldest of the current branch
            back = min(current, key=lambda entry: entry.revision)
            path, branch, revision = [*back.path, (back.branch, back.revision)], branch + 1, back.revision
    for _ in range(keep):
        order, revision = order + 1, revision + 2
        head = new(revision, order, str(branch), path, name=f"{revision}-{order}")
        entries = [entry for entry in [*entries, head] if entry not in outdated([*entries, head], head, keep)]
    assert {entry.standing(head) for entry in entries} == {"current"} and len(entries) == keep


def test_the_best_snapshot_is_one_of_the_current_branch():
    entries = [
        new(8, 1, validation_loss=0.5),
        new(12, 2, validation_loss=0.1),
        new(10, 3, "b", BACK_TO_8, validation_loss=0.4),
        new(14, 4, "b", BACK_TO_8),
    ]
    found = best(entries, newest(entries, RUN))
    assert found and found.name == "10"
    assert best(entries, None) is None and best([new(1, 1)], new(1, 1)) is None


def test_a_run_that_was_killed_before_its_first_record_can_be_resumed():
    assert resumable(new(1, 1), RUN) and resumable(new(1, 1, run="x", run_before="run"), RUN)
    assert not resumable(new(1, 1, run="x", run_before="y"), RUN)


def test_names_of_folders():
    assert aside_name("10", ["8", "10"]) == "10-2" and aside_name("10", ["10", "10-2", "10-3"]) == "10-4"
    assert all(map(is_snapshot_name, ("0", "10", "10-2")))
    assert not any(map(is_snapshot_name, ("", "10 - Copy", "10-", "-2", "ten", "١٠", "10-2-3", "latest")))
