"""The page disables what the chosen model's family can't have, with the reason, and lists families that are missing."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import ClassVar

import pytest

from dreambooth.jobs import jobs
from dreambooth.models import registry
from dreambooth.models.capabilities import Capabilities, Limit
from dreambooth.models.sd.sd1 import StableDiffusion1
from dreambooth.models.sd.sdxl import SDXL
from dreambooth.settings import Settings
from dreambooth.settings.objective import FLOW_ONLY
from dreambooth.ui.page import Page


class Limited(StableDiffusion1):
    title = "Limited <1>"
    capabilities = Capabilities({
        "clip_skip": Limit('its text encoder has no "clip skip"'),
        "scheduler": Limit("it is another process", ("EulerDiscrete", "DDIM")),
    })  # fmt: skip
    required_libraries: ClassVar = {"no-such-package": ">=2"}


@pytest.fixture
def page(page_controller, mini, monkeypatch):
    """``mini`` is of the limited family; other models aren't."""
    monkeypatch.setattr(registry, "FAMILIES", [Limited(), SDXL])
    page = Page(page_controller)
    page.blocks()
    return page


def _disabled(page, name, **values):
    settings = dataclasses.asdict(Settings(**values))
    sheet = page._disabled(name, *(settings[key] for key in page.fields.dependencies()))
    ids = {elem_id for listed in re.findall(r'data-ids="(.*?)"', sheet) for elem_id in listed.split()}
    return ids & {"db_clip_skip", "db_scheduler", *(f"db_{key}" for key in FLOW_ONLY)}, sheet


def test_what_the_family_cannot_have_is_disabled_with_the_reason(page):
    assert _disabled(page, None)[0] == set()
    ids, sheet = _disabled(page, "mini")
    assert ids == {"db_clip_skip"}
    (text,) = re.findall(r'<i data-reason-for="db_clip_skip">(.*?)</i>', sheet)
    assert html.unescape(text) == 'Not with Limited <1>: its text encoder has no "clip skip".' and "<1>" not in sheet
    ids, _ = _disabled(page, "mini", clip_skip=2)
    assert ids == set(), "a refused value can be set back"


def test_refused_values_are_named_when_chosen_saved_loaded_and_checked(page, mini):
    limited = "Limited &lt;1&gt; can&#x27;t have PNDM: it is another process. Choose EulerDiscrete or DDIM."
    refused = page._refuse_unusable("scheduler")
    assert limited in refused("PNDM", "mini") and 'href="#db_scheduler"' in refused("PNDM", "mini")
    assert "value" not in refused("DDIM", "mini") and "value" not in refused("PNDM", None)
    values = [update["value"] for update in page._setting_updates(Settings(scheduler="PNDM"))]
    values += [update["value"] for update in page.input.concepts.updates(())]
    saved = page._save("mini", "mini", *values)
    assert "Saved the parameters of mini" in saved and limited in saved
    assert mini.load().settings.scheduler == "PNDM" and limited in page._load_params_from("mini", "mini")[-1]
    assert limited in page._check("mini", "mini", *values)[0]


def test_create_lists_a_family_whose_library_is_missing_with_the_reason(page, page_controller):
    options = page.model.options
    choices = [choice if isinstance(choice, str) else choice[0] for choice in options.controls["model_type"].choices]
    assert "v1x — needs no-such-package>=2" in choices and "SDXL" in choices
    values = [control.value for control in options.components()]
    assert options.values(values)["model_type"] == "auto"
    assert page._create(None, "new", "Embedded mini model", *values)[0] == ""
    assert jobs.current and jobs.current.wait(60)
    state = page_controller.page_state(None)
    assert "Limited <1> needs no-such-package>=2 (not installed)" in html.unescape(state.status)
    assert page_controller.model_names() == ["mini"]
