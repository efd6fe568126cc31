"""When periodic tasks are due, and that they have no influence on training."""

from __future__ import annotations

import json
import time

from dreambooth.runs.interrupted import interrupted_run
from dreambooth.settings import Settings
from dreambooth.training import scheduled_tasks
from dreambooth.training.scheduled_tasks import Autosave, due_tasks
from dreambooth.training.snapshot import Position


def test_each_task_is_due_once_where_epochs_and_steps_coincide():
    settings = Settings(save_preview_every=2, preview_every_steps=3, save_embedding_every=1, save_every_steps=4,
                        epoch_pause_frequency=2, epoch_pause_time=5, validation_every=6)  # fmt: skip
    assert due_tasks(settings, Position(1, 1, 5), epoch_ended=False) == set()
    assert due_tasks(settings, Position(1, 2, 6), epoch_ended=False) == {"preview", "validate"}
    assert due_tasks(settings, Position(2, 0, 8), epoch_ended=True) == {"preview", "save", "pause"}
    assert due_tasks(settings, Position(2, 0, 8), epoch_ended=False) == {"save"}


def test_autosave_keeps_its_time():
    now = 0.0
    autosave, never = Autosave(2, lambda: now), Autosave(0, lambda: now)
    now = 119.0
    assert not autosave.is_due() and not never.is_due()
    now = 121.0
    assert autosave.is_due() and not autosave.is_due() and not never.is_due()
    now = 242.0
    assert autosave.is_due()


def test_saves_and_previews_follow_the_interval_in_steps(train):
    outcome = train(save_every_steps=2, preview_every_steps=3)
    assert [e["summary"] for e in outcome.of("saved")] and len(outcome.of("saved")) == 3  # steps 2 and 4, the end
    assert sorted({e["step"] for e in outcome.of("preview")}) == [3, 6]


def test_autosaves_are_snapshots_and_change_nothing(train, mini, models_dir, created, monkeypatch):
    import shutil

    alone = train(seed=5, save_state_cancel=False).digest()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    monkeypatch.setattr(scheduled_tasks.Autosave, "is_due", lambda self: bool(self.seconds))
    often = train(seed=5, autosave_minutes=10)
    assert often.digest() == alone
    assert [e["what"] for e in often.of("saved")].count("snapshot") == 5
    assert len(mini.snapshot_steps()) == often.result.config.settings.snapshots_to_keep


def test_a_pause_between_epochs_ends_by_itself_and_changes_nothing(train, models_dir, created):
    import shutil

    alone = train(seed=5, num_train_epochs=2).digest()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    start = time.monotonic()
    rested = train(seed=5, num_train_epochs=2, epoch_pause_frequency=1, epoch_pause_time=2)
    assert time.monotonic() - start >= 2
    assert rested.digest() == alone and "Pausing for 2 s" in rested.messages


def test_a_pause_can_be_resumed_early(train):
    def wake(event, controls):
        if event["kind"] == "message" and "Resting" in event["text"]:
            import threading

            threading.Timer(0.3, controls.resume).start()

    start = time.monotonic()
    assert train(epoch_pause_frequency=1, epoch_pause_time=600, on=wake).result.state == "done"
    assert time.monotonic() - start < 60


def test_a_run_that_broke_off_is_offered_to_go_on(train, mini):
    assert interrupted_run(mini) is None
    train(on=lambda event, controls: event.get("step") == 3 and event["kind"] == "step" and controls.cancel())
    log = max(mini.logging.glob("run_*.jsonl"))
    lines = [line for line in log.read_text().splitlines() if json.loads(line)["kind"] != "ended"]
    log.write_text("\n".join(lines) + '\n{"kind": "st')  # as a crash leaves it
    broken_off = interrupted_run(mini)
    assert (broken_off.step, broken_off.revision) == (3, 3)
    assert "--resume" in broken_off.offer("mini") and "step 3" in broken_off.offer("mini")
    assert train(resume="latest").result.state == "done"
    assert interrupted_run(mini) is None


def test_killed_between_a_snapshot_and_its_note_the_run_goes_on(train, mini):
    facts = mini.load().info
    train(on=lambda event, controls: event["kind"] == "step" and controls.cancel())
    import dataclasses

    mini.save(dataclasses.replace(mini.load(), info=facts))
    assert "Resuming from step 1" in train(resume="latest").messages
