"""The page's event handlers, without a browser."""

from __future__ import annotations

import dataclasses
import re
import threading

from PIL import Image

from dreambooth.jobs import jobs
from dreambooth.settings import SETTINGS, Settings
from dreambooth.ui.page import Page
from dreambooth.ui.page_controller import CHOSEN_MODEL


def test_a_poll_from_before_create_does_not_clear_the_pending_model(page_controller, mini):
    """Its response arrives after Create has set the new model's name, and must not reset it."""
    page = Page(page_controller)
    page.blocks()

    def pending_after(pending: str):
        return page.poller.poll("mini", None, pending)[3]

    assert pending_after("mini") == ""
    for pending in ("", "not there yet"):
        answer = pending_after(pending)
        assert answer.get("__type__") == "update" and "value" not in answer


def test_buttons_that_need_a_model_are_disabled_without_one(page_controller, models_dir):
    page = Page(page_controller)
    page.blocks()
    any_model, of_models = len(page.input.job_buttons()), len(page.input.model_job_buttons())
    updates = page.poller._buttons(page_controller.page_state(None), None)
    assert len(updates) == page.poller._button_count()
    enabled = [update["interactive"] for update in updates[-any_model - of_models :]]
    assert enabled == [True] * any_model + [False] * of_models


def test_fields_with_the_parameters_of_another_model_are_neither_saved_nor_trained(page_controller, mini):
    """A click after a model was chosen, and before its parameters have arrived."""
    page = Page(page_controller)
    page.blocks()
    before = mini.config_path.read_bytes()
    fields = [*page._setting_updates(mini.load().settings), *page.input.concepts.updates(())]
    values = [update["value"] for update in fields]
    values[list(page.fields.declared).index("num_train_epochs")] = 7
    for message in (
        page._save("other", "mini", *values),
        page._train("none", "other", "mini", *values),
        page._check("other", "mini", *values)[0],
        page._recommend("person")("other", "mini", *values)[-1],
    ):
        assert "parameters of mini are still loading" in message
    assert mini.config_path.read_bytes() == before and not page_controller.job_runner.busy
    assert "Saved the parameters of mini" in page._save("mini", "mini", *values)
    assert mini.load().settings.num_train_epochs == 7


def test_results_of_the_forms_survive_reload_ui(page_controller, tmp_path, done):
    """Reload UI builds the page again, with the same controller."""
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    first, second = Page(page_controller), Page(page_controller)
    first.blocks()
    done(first.input.images.preparation.preparation.dry_run(None, str(tmp_path), {}))
    page_controller.job_runner.form_results["tag"] = "a trial"
    second.blocks()
    shown = second.input.images.result_html()
    assert "Dry run: 1 image would be saved" in shown["db_prepare_outcome"] and shown["db_tag_made"] == "a trial"
    assert {"__type__": "update", "value": "a trial"} in second.poller.poll(None, None, "")


def test_parameters_of_a_model_in_use_are_disabled(page_controller, mini):
    page, end = Page(page_controller), threading.Event()
    page.blocks()
    before = mini.config_path.read_bytes()
    assert page_controller.job_runner.start("train", "mini", lambda controls, events: end.wait(60), model="mini") == ""
    defaults = [SETTINGS[key].default for key in page.fields.dependencies()]
    disabled = page._disabled("mini", *defaults)
    ids = set(re.search(r'data-ids="(.*?)"', disabled)[1].split())
    assert {"db_add_concept", "db_load_params", "db_look_use", "db_resolution"} <= ids
    message = page.concept_import.import_from("mini", '[{"instance_data_dir": "x"}]', dataclasses.asdict(Settings()))
    assert "mini is in use by a running job" in message and mini.config_path.read_bytes() == before
    end.set()
    assert jobs.current.wait(60)


def test_load_params_says_whose_parameters_the_page_shows(page_controller, mini, done):
    done(page_controller.create("other", "Embedded mini model", {}))
    page = Page(page_controller)
    page.blocks()
    steps = list(page.fields.declared).index("num_train_epochs")
    mini.save(dataclasses.replace(mini.load(), settings=Settings(num_train_epochs=77)))
    of_mini, of_itself = (page._load_params_from(source, "other") for source in ("mini", CHOSEN_MODEL))
    assert of_mini[steps]["value"] == 77 and "Save Params saves them to other" in of_mini[-1]
    assert of_itself[steps]["value"] != 77 and "saved parameters of other" in of_itself[-1]


def test_another_model_clears_the_messages_about_the_last_one(page_controller, mini):
    page = Page(page_controller)
    page.blocks()
    assert page._show_model("mini")[-3:] == ["", "", ""]


def test_a_choice_that_cannot_be_used_here_is_refused_when_chosen(page_controller, mini):
    page = Page(page_controller)
    page.blocks()
    refused = page._refuse_unusable("mixed_precision")("fp16")
    assert "needs an NVIDIA or AMD GPU" in refused and 'href="#db_mixed_precision"' in refused
    assert refused != page._refuse_unusable("mixed_precision")("fp16")  # or the browser would not show it again
    assert "value" not in page._refuse_unusable("mixed_precision")("bf16")
    elsewhere = page._setting_updates(Settings(mixed_precision="fp16"))  # it can be prepared for another machine
    values = [update["value"] for update in (*elsewhere, *page.input.concepts.updates(()))]
    saved = page._save("mini", "mini", *values)
    assert "Saved the parameters of mini" in saved and "needs an NVIDIA or AMD GPU" in saved
    assert mini.load().settings.mixed_precision == "fp16"
