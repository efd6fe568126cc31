"""The page is drawn from the declarations: what is declared appears, where it says, with what it says."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

from dreambooth.hosts import StandaloneHost
from dreambooth.settings import CONCEPT, CREATE_OPTIONS, SETTINGS, Setting, Settings, parse
from dreambooth.ui import build
from dreambooth.ui.concepts_tab import DRAWN
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import MAX_DIRECT_INPUTS, MAJOR


def ids(page) -> dict[str, object]:
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def test_a_setting_that_is_declared_later_appears_by_itself(tmp_path, monkeypatch):
    later = Setting("later", float, 0.5, "Tuning", "Comes later", "What it does.", low=0, high=1, step=0.1)
    monkeypatch.setitem(SETTINGS, "later", later)
    control = ids(build(StandaloneHost(tmp_path)))["db_later"]
    assert (control.label, control.info, control.value) == ("Comes later", "What it does.", 0.5)
    assert (control.minimum, control.maximum, control.step) == (0, 1, 0.1)


def test_every_declaration_has_its_control(tmp_path):
    drawn = ids(build(StandaloneHost(tmp_path)))
    assert {f"db_{key}" for key in (*SETTINGS, *CREATE_OPTIONS)} <= drawn.keys()
    assert {f"db_c{number}_{key}" for number in range(1, DRAWN + 1) for key in CONCEPT} <= drawn.keys()
    for key, setting in SETTINGS.items():
        assert drawn[f"db_{key}"].label == setting.label
    length = drawn["db_max_token_length"]  # its number is text there, and comes back as a number
    assert length.value == "75" and Fields(SETTINGS).update("max_token_length", 150)["value"] == "150"
    assert parse(Settings, {"max_token_length": "150"}).max_token_length == 150


@pytest.mark.skipif(MAJOR < 6, reason="only Gradio 6 keeps such notes")
def test_no_event_leaves_notes_that_each_later_one_goes_through(tmp_path):
    """A page whose events note how hundreds of fields fared keeps a core busy for as long as it is open."""
    for event in build(StandaloneHost(tmp_path)).config["dependencies"]:
        assert event["show_progress_on"] == []
        assert len(event["inputs"]) <= MAX_DIRECT_INPUTS + 2 or not event["backend_fn"], event["targets"]  # 2: a letter, a state


@pytest.mark.skipif(MAJOR < 4, reason="3.41 has no such changes")
def test_no_event_follows_an_html_that_gradio_4_calls_changed_whenever_it_draws(tmp_path):
    page = build(StandaloneHost(tmp_path))
    for event in page.config["dependencies"]:
        for target, kind in event["targets"]:
            assert kind != "change" or page.blocks[target].get_block_name() != "html", event["targets"]


def test_what_has_no_effect_cannot_be_used():
    fields = Fields(SETTINGS)
    values = {key: SETTINGS[key].default for key in fields.deciders()}
    without = fields.unusable(list({**values, "use_lora": True}.values()))
    assert "db_learning_rate" in without and not {"db_lora_unet_rank", "db_seed"} & set(without)
    without = fields.unusable(list({**values, "use_lora": False}.values()))
    assert "db_lora_unet_rank" in without and "db_learning_rate" not in without
