"""Snapshots on disk: branches, damage, those of older versions, automatic ones, and runs with nothing left to train."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.runs.interrupted import interrupted_run
from dreambooth.settings import Concept, Folders, ModelFolder
from dreambooth.training import results, scheduled_tasks
from dreambooth.training.snapshot import find_entry, find_snapshot
from dreambooth.training.snapshot_list import list_snapshots
from tests.training.conftest import short_run

EACH_EPOCH = {"save_embedding_every": 1, "save_state_during": True, "save_state_after": True, "save_lora_during": False}
NEWER_FACTS = ("branch", "path", "order", "saved", "automatic", "results_saved")


def edit(folder: Path, change) -> None:
    """Change the JSON of a snapshot."""
    path = folder / "snapshot.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def as_older_version(model: ModelFolder) -> None:
    """Remove what older versions did not write."""
    for path in model.snapshots.iterdir():
        edit(path, lambda about: [about["facts"].pop(key, None) for key in NEWER_FACTS])


def names(model: ModelFolder) -> list[str]:
    return [entry.name for entry in list_snapshots(model).entries]


@pytest.fixture(scope="module")
def folders(created, tmp_path_factory, images):
    """``make(name, *runs)``: a models folder with these runs of the model "mini", each as keywords of short_run."""
    concept = Concept(instance_data_dir=str(images / "instance"), class_data_dir=str(images / "class"))

    def make(name: str, *runs: dict) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(name) / "models"
        shutil.copytree(created, folder)
        model = ModelFolder(Folders(folder), "mini")
        outcomes = [short_run(model, concept, samples=0, **run, **EACH_EPOCH) for run in runs]
        return folder, "\n".join(outcome.messages for outcome in outcomes)

    return make


@pytest.fixture(scope="module")
def after_going_back(folders):
    """Snapshots 3, 6, 9; then back to 3, and one epoch: a new 6. The 9 is of an abandoned branch, as is the old 6."""
    keep = {"snapshots_to_keep": 0}
    folder, messages = folders("branched", {"num_train_epochs": 3, **keep}, {"resume": "3", **keep})
    assert "Not part of the resumed run: 6, 9." in messages
    return folder


@pytest.fixture(scope="module")
def after_cancel(folders):
    """A canceled run: snapshots 3 and 4."""
    cancel = {"on": lambda e, c: e["kind"] == "step" and e["step"] == 4 and c.cancel()}
    return folders("stopped", cancel)[0]


@pytest.fixture
def branched(after_going_back, mini):
    shutil.copytree(after_going_back / "dreambooth" / "mini", mini.root, dirs_exist_ok=True)
    return mini


@pytest.fixture
def stopped(after_cancel, mini):
    shutil.copytree(after_cancel / "dreambooth" / "mini", mini.root, dirs_exist_ok=True)
    return mini


def test_latest_is_the_run_that_was_trained_last(train, branched):
    snapshots = list_snapshots(branched)
    stand = {entry.name: entry.standing(snapshots.newest) for entry in snapshots.entries}
    assert stand == {"3": "current", "6": "current", "6-2": "abandoned", "9": "abandoned"}
    assert names(branched)[0] == "6" and "abandoned branch" in snapshots.describe(snapshots.entries[-1])
    resumed = train(resume="latest", num_train_epochs=4, snapshots_to_keep=2, **EACH_EPOCH)
    assert "Resuming from step 6 (snapshot 6, " in resumed.messages
    assert sorted(names(branched)) == ["12", "9"], "a new 9, and the abandoned branch has ended"
    assert {entry.standing(list_snapshots(branched).newest) for entry in list_snapshots(branched).entries} == {
        "current"
    }


def test_an_abandoned_branch_can_be_resumed_by_its_name_and_is_then_the_current_one(train, branched):
    stopped = train(resume="9", num_train_epochs=5, on=lambda e, c: e["kind"] == "phase" and c.stop_now(), **EACH_EPOCH)
    assert stopped.error or stopped.result.state == "cancelled"
    assert find_entry(branched).name == "6", "nothing was resumed"
    resumed = train(resume="9", num_train_epochs=5, on=lambda e, c: e["kind"] == "step" and c.stop_now(), **EACH_EPOCH)
    assert "Resuming from step 9 (snapshot 9" in resumed.messages and resumed.result.state == "cancelled"
    assert find_entry(branched).name == "9", "though it was stopped before it saved one of its own"
    assert "there are: 3, 6, 6-2, 9, latest" in str(train(resume="7", **EACH_EPOCH).error)


def test_snapshots_of_older_versions_and_copied_ones_are_told_apart(branched):
    shutil.rmtree(branched.abandoned)  # older versions replaced it
    as_older_version(branched)
    for name, seconds in (("3", 100), ("9", 200), ("6", 300)):
        os.utime(branched.snapshots / name / "snapshot.json", (seconds, seconds))
    assert find_snapshot(branched).name == "6" and names(branched) == ["6", "3", "9"]
    for path in branched.snapshots.glob("*/*"):
        os.utime(path, (100, 100))
    assert find_snapshot(branched).name == "6", "db_config.json has recorded it"
    snapshots = list_snapshots(branched)
    assert [e.standing(snapshots.newest) for e in snapshots.entries] == ["current", "current", "abandoned"]


DAMAGES = {
    "tensors cut off": lambda path: os.truncate(path / "weights.safetensors", 100),
    "no optimizer state": lambda path: (path / "optimizer.safetensors").unlink(),
    "no snapshot.json": lambda path: (path / "snapshot.json").unlink(),
    "empty": lambda path: [file.unlink() for file in path.iterdir()],
    "zeros": lambda path: (path / "snapshot.json").write_bytes(b"\x00" * 300),
    "a list": lambda path: (path / "snapshot.json").write_text("[]"),
    "no facts": lambda path: edit(path, lambda about: about.update(facts=None)),
    "no number": lambda path: edit(path, lambda about: about["position"].update(step="many")),
    "infinite": lambda path: edit(path, lambda about: about["position"].update(epoch=float("inf"))),
    "no path": lambda path: edit(path, lambda about: about["facts"].update(path=[5])),
    "no settings": lambda path: edit(path, lambda about: about.pop("settings")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_listed_and_skipped(stopped, damage):
    assert find_entry(stopped).name == "4"
    DAMAGES[damage](stopped.snapshots / "4")
    assert find_entry(stopped).name == "3" and names(stopped) == ["3", "4"]
    (broken,) = list_snapshots(stopped).damaged
    assert list_snapshots(stopped).describe(broken).startswith("4 · damaged: ")
    with pytest.raises(UserError, match=r"snapshots.4 is damaged .*Delete it, and resume from 3\."):
        find_entry(stopped, "4")
    interrupted = interrupted_run(stopped)
    assert interrupted and interrupted.snapshot.name == "3" and "1 step to repeat" in interrupted.summary("mini")


def test_latest_is_the_newest_that_is_not_damaged(train, stopped):
    DAMAGES["tensors cut off"](stopped.snapshots / "4")
    resumed = train(resume="latest", max_train_steps=4)
    assert "is damaged (" in resumed.messages and "and is skipped" in resumed.messages
    assert "Resuming from step 3" in resumed.messages and resumed.result.state == "done"


def test_only_damaged_snapshots(mini, train):
    for name in ("4", "notes", "5 - Copy"):
        (mini.snapshots / name).mkdir(parents=True)
    assert names(mini) == ["4"] and interrupted_run(mini) is None
    assert "All snapshots of mini are damaged (4)" in str(train(resume="latest").error)
    assert "snapshots/4 is damaged (snapshot.json is missing)" in str(train(resume="4").error).replace("\\", "/")


# -- nothing left to train -----------------------------------------------------------------------------------------


def files(model: ModelFolder) -> dict[str, bytes]:
    """Everything but logs and caches."""
    root = model.folders.models
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not {"logging", "cache", ".cache"} & set(path.relative_to(root).parts)
    }


@pytest.mark.parametrize(
    ("use_lora", "again", "trained", "raised"),
    [
        (True, {}, "2 of 2 epochs (step 6 of 6)", "num_train_epochs (Training steps per image (epochs))"),
        (True, {"num_train_epochs": 1, "custom_model_name": "other"}, "2 of 1 epochs (step 6 of 3)", "num_train"),
        (False, {"max_train_steps": 5, "num_train_epochs": 9}, "6 of 5 steps", "max_train_steps (Maximum training"),
    ],
)
def test_a_resume_with_nothing_left_says_so_and_writes_nothing(train, mini, use_lora, again, trained, raised):
    first = train(save_state_after=True, use_lora=use_lora)
    before = files(mini)
    resumed = train(resume="latest", **{"save_state_after": True, "use_lora": use_lora, **again})
    assert files(mini) == before and first.result.files and not resumed.result.files
    assert (resumed.result.state, resumed.error) == ("done", None)
    assert resumed.result.message == resumed.of("ended")[-1]["text"]
    assert f"already trained {trained}" in resumed.result.message and raised in resumed.result.message


def test_results_that_were_never_saved_are_saved_by_a_resume_once(train, mini, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(results, "write_lora", fail)
        assert "Your progress is in a snapshot" in train().messages
    resumed = train(resume="latest")
    assert [path.name for path in resumed.result.files] == ["mini_6.safetensors"] and not resumed.of("step")
    before = files(mini)
    assert "Nothing left to train" in train(resume="latest").messages and files(mini) == before


def test_a_canceled_run_can_be_finished_where_it_is(train):
    """By lowering the epochs to those that were trained."""
    train(num_train_epochs=5, on=lambda e, c: e["kind"] == "step" and e["step"] == 3 and c.cancel())
    finished = train(resume="latest", num_train_epochs=1)
    assert [path.name for path in finished.result.files] == ["mini_3.safetensors"] and not finished.of("step")


# -- automatic snapshots -------------------------------------------------------------------------------------------


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr(scheduled_tasks.Autosave, "is_due", lambda self: bool(self.seconds))


@pytest.mark.usefixtures("always_due")
def test_of_automatic_snapshots_only_the_last_is_kept_next_to_the_others(train, mini):
    def look(event, controls):
        seen.append([(entry.name, entry.automatic) for entry in list_snapshots(mini).entries])
        if event.get("step") == 5:
            controls.stop_now()

    seen: list[list[tuple[str, bool]]] = []
    steps = {**EACH_EPOCH, "save_embedding_every": 0, "save_every_steps": 2, "snapshots_to_keep": 2}
    outcome = train(on=lambda e, c: e["kind"] == "step" and look(e, c), **steps)
    assert outcome.result.state == "cancelled"
    assert seen == [[], [("1", True)], [("2", False)], [("3", True), ("2", False)], [("4", False), ("2", False)]]


@pytest.mark.usefixtures("always_due")
def test_a_failed_autosave_is_one_warning_and_the_run_goes_on(train, mini, monkeypatch):
    def full(*args):
        raise UserError("A snapshot needs 3 GB in ..., but only 1 GB is free: free some space.")

    monkeypatch.setattr("dreambooth.training.snapshot.require_free_space", full)
    outcome = train(save_state_cancel=False)
    assert outcome.result.state == "done" and outcome.result.files
    warnings = [e for e in outcome.of("message") if "automatic snapshot could not be saved" in e["text"]]
    assert len(warnings) == 1 and "free some space" in warnings[0]["text"] and warnings[0]["level"] == "warning"


@pytest.mark.usefixtures("always_due")
def test_an_interrupted_run_is_found_with_what_was_kept_of_it(train, mini):
    def die(event, controls):
        if event["kind"] == "step" and event["step"] == 4:
            raise KeyboardInterrupt

    assert interrupted_run(mini) is None
    with pytest.raises(KeyboardInterrupt):
        train(on=die)
    found = interrupted_run(mini)
    assert found and (found.step, found.total, found.snapshot.name, found.snapshot.automatic) == (4, 6, "3", True)
    assert "step 4 of 6" in found.summary("mini") and found.offer("mini").endswith('train "mini" --resume')
    train(max_train_steps=1, lr_warmup_steps=999)  # refused
    assert interrupted_run(mini) == found, "an attempt that was refused does not hide it"
    with pytest.raises(KeyboardInterrupt):
        train(autosave_minutes=0, on=die)
    assert interrupted_run(mini) is None, "the new run left nothing; the snapshot is of the one before"
    assert train(resume="latest").result.state == "done"
    assert interrupted_run(mini) is None and not names(mini)
