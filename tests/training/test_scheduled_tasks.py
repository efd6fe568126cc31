"""When periodic tasks are due, and that they have no influence on training."""

from __future__ import annotations

import json
import threading

import pytest

from dreambooth.runs.interrupted import interrupted_run
from dreambooth.settings import Settings
from dreambooth.training import scheduled_tasks
from dreambooth.training.scheduled_tasks import Autosave, due_tasks, outputs_to_save
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
    assert autosave.is_due() and not never.is_due()
    now = 150.0  # saving took a while
    autosave.restart()
    now = 269.0
    assert not autosave.is_due()
    now = 270.0
    assert autosave.is_due()


@pytest.mark.parametrize(("use_lora", "result"), [(True, "lora"), (False, "ckpt")])
@pytest.mark.parametrize(("when", "setting"), [("during", "during"), ("now", "during"), ("after", "after"),
                                               ("cancel", "cancel")])  # fmt: skip
@pytest.mark.parametrize("saves_result", [True, False])
@pytest.mark.parametrize("saves_state", [True, False])
def test_what_is_saved_on_which_occasion(use_lora, result, when, setting, saves_result, saves_state):
    """All other switches are the opposite, so that none of them is taken for another."""
    occasions = {"during", "after", "cancel"} - {setting}
    values = {f"save_{what}_{occasion}": not saves_result for what in ("lora", "ckpt") for occasion in occasions}
    values |= {f"save_state_{occasion}": not saves_state for occasion in occasions}
    values |= {f"save_{'ckpt' if use_lora else 'lora'}_{setting}": not saves_result}
    values |= {f"save_{result}_{setting}": saves_result, f"save_state_{setting}": saves_state}
    if use_lora:
        results = ["lora"] if saves_result or when == "now" else []
    else:
        results = ["working and checkpoint" if saves_result else "working"]
    snapshot = ["snapshot"] if saves_state else []
    expected = results + snapshot if when in ("after", "cancel") else snapshot + results
    assert outputs_to_save(Settings(use_lora=use_lora, **values), when) == expected
    assert outputs_to_save(Settings(use_lora=use_lora, **values), "auto") == ["snapshot"]


def test_each_result_has_a_switch_for_each_occasion():
    assert outputs_to_save(Settings(use_lora=True, save_lora_during=True, save_lora_after=False), "during") == ["lora"]
    assert outputs_to_save(Settings(use_lora=True, save_lora_during=False, save_lora_after=True), "during") == []
    full = {"use_lora": False, "save_ckpt_during": False}
    assert outputs_to_save(Settings(save_ckpt_after=True, **full), "after") == ["working and checkpoint"]
    assert outputs_to_save(Settings(save_ckpt_after=False, **full), "after") == ["working"]


NOTHING = {f"save_{what}_{when}": False for what in ("lora", "ckpt", "state") for when in ("during", "after", "cancel")}


def saved(outcome) -> tuple[list[str], set[str]]:
    """What was announced, in order, and the results that are there."""
    folders, model = outcome.model.folders, outcome.model
    roots = (folders.loras, folders.checkpoints, model.snapshots)
    files = {path.relative_to(folders.models).as_posix() for root in roots for path in root.rglob("*.safetensors")}
    files = {path.removeprefix("dreambooth/mini/") for path in files if not path.endswith("optimizer.safetensors")}
    return [event["what"] for event in outcome.of("saved")], files


def test_a_lora_run_saves_what_its_settings_say(train):
    """Nine steps, three in an epoch."""
    values = {**NOTHING, "save_lora_after": True, "save_state_during": True, "snapshots_to_keep": 1}
    outcome = train(**values, num_train_epochs=3, save_embedding_every=1, custom_model_name="other")
    events, files = saved(outcome)
    assert events == ["snapshot", "snapshot", "lora"]
    assert files == {"snapshots/6/weights.safetensors", "Lora/other_9.safetensors"}


def test_a_full_run_saves_what_its_settings_say(train):
    values = {**NOTHING, "save_ckpt_during": True, "save_state_after": True, "use_subdir": True, "use_lora": False}
    events, files = saved(train(**values, num_train_epochs=2, save_embedding_every=1))
    assert events == ["checkpoint", "snapshot"]
    assert files == {"Stable-diffusion/mini/mini_3.safetensors", "snapshots/6/weights.safetensors"}


def test_a_canceled_run_saves_what_its_settings_say(train, models_dir, created):
    import shutil

    def cancel(event, controls):
        if event["kind"] == "step":
            controls.cancel()

    lora = train(**{**NOTHING, "save_lora_cancel": True}, on=cancel)
    assert saved(lora) == (["lora"], {"Lora/mini_1.safetensors"})
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    full = {**NOTHING, "save_ckpt_cancel": True, "save_state_cancel": True, "use_lora": False}
    expected = {"Stable-diffusion/mini_1.safetensors", "snapshots/1/weights.safetensors"}
    assert saved(train(**full, on=cancel)) == (["checkpoint", "snapshot"], expected)


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
    assert not mini.snapshot_steps(), "of no use after a successful end"


def test_a_pause_between_epochs_ends_by_itself_and_changes_nothing(train, models_dir, created):
    import shutil

    alone = train(seed=5, num_train_epochs=2).digest()
    shutil.rmtree(models_dir)
    shutil.copytree(created, models_dir)
    paused = train(seed=5, num_train_epochs=2, epoch_pause_frequency=1, epoch_pause_time=1)
    times = {event["text"].partition(" ")[0]: event["time"] for event in paused.of("message")}
    assert times["Resumed."] - times["Pausing"] > 0.9
    assert paused.digest() == alone and "Pausing for 1 s" in paused.messages


@pytest.mark.timeout(120)
def test_a_pause_can_be_resumed_early(train):
    """Of ten minutes."""

    def resume(event, controls):
        if event["kind"] == "message" and "Pausing for 600 s" in event["text"]:
            threading.Timer(0.2, controls.resume).start()

    assert train(epoch_pause_frequency=1, epoch_pause_time=600, on=resume).result.state == "done"


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
