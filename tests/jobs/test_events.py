"""The log of events: its lines stay readable for older and newer versions, and failures do not harm the job."""

from __future__ import annotations

import json

import pytest

from dreambooth.jobs import Ended, Events, FileSaved, latest_log, read_events
from dreambooth.jobs.events import (
    Message,
    Phase,
    PreviewSaved,
    Progress,
    Started,
    Step,
    ValidationMeasured,
)

# The keys of existing logs: they must not change.
EVENTS = [
    (Started("train", {"seed": 1}), {"kind": "started", "what": "train", "settings": {"seed": 1}, "resume": ""}),
    (Phase("latents"), {"kind": "phase", "name": "latents"}),
    (Progress("latents", 1, 3), {"kind": "progress", "phase": "latents", "done": 1, "total": 3}),
    (
        Step(3, 10, 0, 2, 0.5, None, 1e-4, 0.25, None),
        {"kind": "step", "step": 3, "total": 10, "epoch": 0, "epochs": 2, "loss": 0.5, "prior_loss": None, "lr": 1e-4,
         "seconds": 0.25, "memory": None},
    ),
    (
        ValidationMeasured(3, 0.5, None, {1: 0.5}, {}, True),
        {"kind": "validation", "step": 3, "loss": 0.5, "class_loss": None, "losses": {"1": 0.5}, "class_losses": {},
         "best": True},
    ),
    (
        PreviewSaved("a.png", "a toy", 7, 3),
        {"kind": "preview", "path": "a.png", "prompt": "a toy", "seed": 7, "step": 3},
    ),
    (FileSaved("lora", "a", "2 modules"), {"kind": "saved", "what": "lora", "path": "a", "summary": "2 modules"}),
    (Message("Paused."), {"kind": "message", "text": "Paused.", "level": "info"}),
    (Ended("done", "Done."), {"kind": "ended", "state": "done", "text": "Done."}),
]  # fmt: skip


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=lambda value: getattr(value, "kind", ""))
def test_each_kind_has_its_keys(tmp_path, event, line):
    events = Events(tmp_path)
    events.send(event)
    events.close()
    (logged,) = read_events(latest_log(tmp_path))
    assert logged.pop("time") > 0
    assert logged == line


def test_listeners_get_the_logged_event_and_a_failing_one_is_removed(tmp_path):
    received = []

    def fail(event):
        received.append("failed")
        raise RuntimeError

    events = Events(tmp_path, fail, received.append)
    events.phase("unet")
    events.phase("training")
    assert [r if r == "failed" else r["name"] for r in received] == ["failed", "unet", "training"]


def test_a_truncated_last_line_is_skipped(tmp_path):
    path = tmp_path / "run_1.jsonl"
    path.write_text(json.dumps({"kind": "phase", "name": "unet"}) + '\n{"kind": "st', encoding="utf-8")
    assert [event["name"] for event in read_events(path)] == ["unet"]
