"""What the page's buttons do, without the page."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

from dreambooth.checkpoints import hub
from dreambooth.jobs import jobs
from dreambooth.settings import SETTINGS, concept_values, read_concepts
from dreambooth.settings.training import OPTIMIZERS
from dreambooth.ui.fields import Fields
from dreambooth.ui.file_choices import OWN_VAE
from tests.mini_models import make

TOKEN = "hf_that_nobody_may_read"


def test_what_cannot_be_created_is_said_and_stays(desk, mini, done, tmp_path):
    """Also after the work has ended, with the model that is shown, and with none."""
    for shown in ("", "mini"):
        done(desk.create("new", str(tmp_path / "nowhere.safetensors"), {}, shown))
        assert "nowhere.safetensors does not exist" in desk.look(shown).status
    assert jobs.current.error


def test_a_token_is_used_once_and_kept_nowhere(desk, done, models_dir, mini_checkpoint, monkeypatch, caplog):
    """Neither when all goes well nor when it does not: not on disk, in no event, in no log, on no page."""
    caplog.set_level(logging.DEBUG)
    used = []

    def fetch(source, token="", progress=None):
        used.append((source, token))
        if source.endswith("gone"):
            raise hub.UserError(f"{source} is gone.")
        return mini_checkpoint

    monkeypatch.setattr(hub, "fetch", fetch)
    done(desk.create("new", "someone/model", {"token": TOKEN}))
    done(desk.create("other", "someone/gone", {"token": TOKEN}))
    assert used == [("someone/model", TOKEN), ("someone/gone", TOKEN)]
    assert desk.names() == ["new"] and "someone/gone is gone" in desk.look("").status
    told = [str(dataclasses.asdict(desk.look(name))) for name in ("new", "")]
    told += [str(vars(desk.bench.view)), caplog.text, repr(desk.model("new").load())]
    assert not any(TOKEN in text for text in told)
    files = [path for path in models_dir.rglob("*") if path.is_file()]
    assert files and not any(TOKEN.encode() in path.read_bytes() for path in files)


def test_vaes_of_the_models_folder_are_offered(desk, done, models_dir, mini_checkpoint):
    folder = models_dir / "VAE" / "sub"
    folder.mkdir(parents=True)
    (folder / "one.pt").touch()
    (folder / "readme.txt").touch()
    assert desk.lists.titles("vaes") == [OWN_VAE, "sub/one.pt"]
    done(desk.create("new", "Embedded mini model", {"vae": "sub/one.pt"}))
    assert "one.pt is empty" in desk.look("").status
    done(desk.create("new", "Embedded mini model", {"vae": OWN_VAE}))
    assert "Created new (Stable Diffusion 1.x)" in desk.look("new").status


def test_facts_are_in_words(desk, done, tmp_path):
    source = make(tmp_path / "xl.safetensors", "SDXL", inpainting=True, v_pred=True)
    done(desk.create("xl", str(source), {}))
    facts = desk.look("xl").facts
    for said in ("xl.safetensors", "Stable Diffusion XL, inpainting, v-prediction, 64 px", "fp16 · "):
        assert said in facts
    done(desk.create("exact", str(source), {"precision": "fp32"}))
    assert "fp32 · " in desk.look("exact").facts


def test_a_run_that_was_checked_shows_its_learning_rates(desk, mini, subject_concepts):
    concepts = [concept_values(concept) for concept in read_concepts(subject_concepts)[0]]
    settings = {"resolution": 64, "lr_scheduler": "cosine", "stop_text_encoder": 0, "num_train_epochs": 2}
    assert "No steps yet" in desk.look("mini").chart
    desk.check("mini", settings, concepts)
    drawn = desk.look("mini").chart
    assert "Learning rates of the run that is ready" in drawn and drawn.count("<polyline") == 1


def test_only_optimizers_that_work_here_are_offered(desk):
    """One that was saved on another machine is shown all the same: a list without it would change it unasked."""
    offered = desk.lists.working_choices()
    assert "Torch AdamW" in offered["optimizer"] and set(offered["optimizer"]) <= set(OPTIMIZERS)
    fields = Fields(SETTINGS, offered={"optimizer": ["Torch AdamW"]})
    assert fields.update("optimizer", "CAME")["choices"] == ["Torch AdamW", "CAME"]
    assert fields.update("optimizer", "Torch AdamW")["choices"] == ["Torch AdamW"]
    assert "choices" not in fields.update("seed", 3)


def test_what_a_run_was_asked_for_is_said_until_it_is_done(desk, mini):
    steps = threading.Semaphore(0)

    def work(controls, events):
        while not controls.stopped:
            steps.acquire(timeout=30)
            controls.consume_sample_request()

    desk.bench.start("train", "mini", work, model="mini")
    samples, cancel, stop = (
        "Samples come after this step.",
        "Press again to stop at once.",
        "Stopping now, without saving.",
    )
    assert desk.bench.tell("sample_now") == "" and samples in desk.look("mini").status
    steps.release()
    _until(lambda: samples not in desk.look("mini").status)
    assert desk.bench.tell("cancel") == "" and cancel in desk.look("mini").status
    assert desk.bench.tell("cancel") == "" and stop in desk.look("mini").status
    steps.release()
    assert jobs.current.wait(30)
    status = desk.look("mini").status
    assert not any(said in status for said in (samples, cancel, stop))
    assert "Nothing is running" in desk.bench.tell("save_now")


def _until(holds):
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")
