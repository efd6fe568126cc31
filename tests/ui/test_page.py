"""What the page's wiring answers, without a browser."""

from __future__ import annotations

import dataclasses
import re
import threading

from PIL import Image

from dreambooth.jobs import jobs
from dreambooth.settings import Settings
from dreambooth.ui.page import Page


def test_a_look_that_was_asked_for_before_create_does_not_forget_what_is_awaited(page_controller, mini):
    """It arrives after Create has noted the new model's name, and must not put the empty one back."""
    page = Page(page_controller)
    page.blocks()

    def awaited_after(awaited: str):
        return page.poller.look("mini", None, awaited)[3]

    assert awaited_after("mini") == ""
    for awaited in ("", "not there yet"):
        answer = awaited_after(awaited)
        assert answer.get("__type__") == "update" and "value" not in answer


def test_what_needs_a_model_waits_for_one(page_controller, models_dir):
    page = Page(page_controller)
    page.blocks()
    job_buttons, of_models = len(page.input.job_buttons()), len(page.input.model_job_buttons())
    answers = page.poller._buttons(page_controller.look(None), None)
    assert len(answers) == page.poller._count()
    assert [answer["interactive"] for answer in answers[-job_buttons - of_models :]] == [True] * job_buttons + [False] * of_models


def test_what_the_fields_of_another_model_hold_is_neither_saved_nor_trained(page_controller, mini):
    """Someone chose a model and clicks before its parameters have come."""
    page = Page(page_controller)
    page.blocks()
    before = mini.config_path.read_bytes()
    fields = [*page._of_settings(mini.load().settings), *page.input.concepts.updates(())]
    values = [update["value"] for update in fields]
    values[list(page.fields.declared).index("num_train_epochs")] = 7
    for refused in (
        page._save("other", "mini", *values),
        page._train("none", "other", "mini", *values),
        page._check("other", "mini", *values)[0],
        page._advise("person")("other", "mini", *values)[-1],
    ):
        assert "parameters of mini yet" in refused
    assert mini.config_path.read_bytes() == before and not page_controller.job_runner.busy
    assert "Saved the parameters of mini" in page._save("mini", "mini", *values)
    assert mini.load().settings.num_train_epochs == 7


def test_what_the_forms_show_of_their_work_is_there_after_reload_ui(page_controller, tmp_path, done):
    """It builds the page anew, on the same desk."""
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    first, second = Page(page_controller), Page(page_controller)
    first.blocks()
    done(first.input.pictures.forms[-1].preparer.dry_run(None, str(tmp_path), {}))
    page_controller.job_runner.kept["tag"] = "what was tried"
    second.blocks()
    shown = second.input.pictures.looks()
    assert "Dry run, nothing is written" in shown["db_prepare_outcome"] and shown["db_tag_made"] == "what was tried"
    assert {"__type__": "update", "value": "what was tried"} in second.poller.look(None, None, "")


def test_while_a_model_is_at_work_what_would_change_its_fields_is_greyed_and_refuses(page_controller, mini):
    page, end = Page(page_controller), threading.Event()
    page.blocks()
    before = mini.config_path.read_bytes()
    assert page_controller.job_runner.start("train", "mini", lambda controls, events: end.wait(60), model="mini") == ""
    greyed = page._unusable("mini")
    ids = set(re.search(r'data-ids="(.*?)"', greyed)[1].split())
    assert {"db_add_concept", "db_load_params", "db_look_use", "db_resolution"} <= ids
    said = page.files.take("mini", '[{"instance_data_dir": "x"}]', dataclasses.asdict(Settings()))
    assert "mini is at work" in said and mini.config_path.read_bytes() == before
    end.set()
    assert jobs.current.wait(60)
