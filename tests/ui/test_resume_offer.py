"""What the page offers after a run was interrupted, and that no damaged file keeps it from being shown."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dreambooth.jobs import jobs
from dreambooth.settings import Folders, ModelConfig, ModelFolder
from dreambooth.settings.model_folder import ModelInfo
from dreambooth.ui.resume_offer import LATEST, snapshot_name
from dreambooth.ui.run_view import RunView


def snapshot(model: ModelFolder, name: str, step: int, saved: float, **facts: Any) -> Path:
    """A snapshot's files, with next to no tensors."""
    folder = model.snapshots / name
    folder.mkdir(parents=True)
    for file in ("weights", "optimizer"):
        save_file({"one": torch.zeros(1)}, folder / f"{file}.safetensors")
    about = {"run": "run", "revision_at_start": 0, "epoch_at_start": 0, "saved": saved, **facts}
    position = {"epoch": step // 3, "window": step % 3, "step": step}
    about = {"position": position, "settings": {}, "facts": about, "optimizer": {}}
    (folder / "snapshot.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def interrupted(models_dir):
    """Killed at step 412 of 900, ten minutes ago; an automatic snapshot from three minutes before; another branch."""
    now = time.time() - 600
    mini = ModelFolder(Folders(models_dir), "mini")
    mini.save(ModelConfig("mini", info=ModelInfo(run="run", revision=410, model_type="v1x")))
    snapshot(mini, "410", 410, now - 180, branch="b", path=[["a", 300]], order=5, automatic=True)
    snapshot(mini, "300", 300, now - 3000, branch="a", order=4)
    snapshot(mini, "600", 600, now - 2000, branch="a", order=3)
    mini.logging.mkdir()
    log = mini.logging / "run_20260101-000000_000.jsonl"
    events = [{"kind": "started", "what": "train", "time": now - 3600, "resume": "300"},
              {"kind": "step", "step": 412, "total": 900, "loss": 0.1, "time": now}]  # fmt: skip
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    os.utime(log, (now, now))
    return mini


def test_the_page_offers_to_continue_and_lists_the_snapshots(page_controller, interrupted, monkeypatch):
    state = page_controller.page_state("mini")
    assert "interrupted at step 412 of 900" in state.resume_offer and "snapshot 410: step 410" in state.resume_offer
    assert "3 min before the interruption" in state.resume_offer and "2 steps to repeat" in state.resume_offer
    assert "Continue it under Select." in state.status and "3 snapshots, " in state.model_summary
    titles = {name: title for title, name in page_controller.snapshot_choices("mini")}
    assert [snapshot_name(title) for title in titles.values()] == list(titles)
    assert list(titles) == ["none", LATEST, "410", "300", "600"]
    assert "epoch 136, step 410" in titles["410"] and titles["410"].endswith("current run, automatic")
    assert titles["300"].endswith("current run") and titles["600"].endswith("abandoned branch")
    started = []
    monkeypatch.setattr(page_controller, "edited_config", lambda model, *parameters: model.load())
    monkeypatch.setattr("dreambooth.actions.train", lambda *args, **more: started.append(more["resume"]))
    assert page_controller.train("mini", {}, [], LATEST) == ""
    assert jobs.current and jobs.current.wait(60) and started == ["latest"]
    log = max(interrupted.logging.glob("*.jsonl"))
    log.write_text(log.read_text() + json.dumps({"kind": "ended", "state": "done", "text": "Done."}) + "\n")


@pytest.mark.parametrize(
    "name", ["db_config.json", "snapshots/410/snapshot.json", "logging/run_20260101-000000_000.jsonl"]
)
@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "5", '"text"', "{", "[{}]", "\x00" * 99, '{"facts": {"run": [1]}, "position": {"step": null}}',
     '{"revision": "many", "epoch": [], "run": 5, "src": 7, "model_type": [], "has_ema": "?", "prediction_type": {}}',
     '{"concepts_list": 5}', '{"concepts_list": [1, "a", null, {"instance_data_dir": 5}]}',
     '{"resolution": {}, "snapshots_to_keep": NaN, "autosave_minutes": Infinity, "optimizer": []}',
     '{"kind": "step", "step": "x"}\n{"kind": "step"}\n7\n{"kind": ["step"]}\n'],
)  # fmt: skip
def test_no_damaged_file_keeps_the_page_from_being_shown(page_controller, interrupted, name, content):
    (interrupted.root / name).write_text(content)
    state = page_controller.page_state("mini")
    assert "mini" in state.names and state.model_summary and state.status
    assert page_controller.snapshot_choices("mini")[0][0] == "none"
    page_controller.is_interrupted("mini")
    settings, concepts = page_controller.parameters("mini")
    assert settings.resolution > 0 and isinstance(concepts, tuple)


@pytest.mark.parametrize("name", ["db_config.json", "snapshots", "snapshots/410/weights.safetensors", "logging"])
def test_a_folder_in_place_of_a_file_or_a_file_in_place_of_a_folder(page_controller, interrupted, name):
    path = interrupted.root / name
    is_folder = path.is_dir()
    path.rename(path.with_name(f"{path.name}-before"))
    path.touch() if is_folder else path.mkdir()
    state = page_controller.page_state("mini")
    assert state.status and state.model_summary
    assert page_controller.snapshot_choices("mini")[0][0] == "none" and page_controller.parameters("mini")


def test_of_automatic_snapshots_the_page_lists_only_the_last():
    def saved(step: int, more: str = "") -> dict[str, Any]:
        return {"kind": "saved", "what": "snapshot", "path": f"snapshots/{step}", "summary": f"step {step}{more}"}

    run = RunView().feed_all([saved(1, ", automatic"), saved(2, ", automatic"), saved(3), saved(4, ", automatic")])
    assert [file.path for file in run.saved] == ["snapshots/3", "snapshots/4"]
    run.feed({"kind": "ended", "state": "done", "text": "Done."})
    assert [file.path for file in run.saved] == ["snapshots/3"]
