"""Controls of the page are created from the declarations of the settings."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

from dreambooth.hosts import StandaloneHost
from dreambooth.settings import CONCEPT, CREATE_OPTIONS, SETTINGS, Setting, Settings, parse
from dreambooth.ui import build
from dreambooth.ui.concepts_tab import MAX_CONCEPTS
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import MAJOR, MAX_DIRECT_INPUTS


def ids(page) -> dict[str, object]:
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def test_a_new_declaration_gets_a_control(tmp_path, monkeypatch):
    later = Setting("later", float, 0.5, "Tuning", "Comes later", "What it does.", low=0, high=1, step=0.1)
    monkeypatch.setitem(SETTINGS, "later", later)
    control = ids(build(StandaloneHost(tmp_path)))["db_later"]
    assert (control.label, control.info, control.value) == ("Comes later", "What it does.", 0.5)
    assert (control.minimum, control.maximum, control.step) == (0, 1, 0.1)


def test_every_declaration_has_its_control(tmp_path):
    controls = ids(build(StandaloneHost(tmp_path)))
    assert {f"db_{key}" for key in (*SETTINGS, *CREATE_OPTIONS)} <= controls.keys()
    assert {f"db_c{number}_{key}" for number in range(1, MAX_CONCEPTS + 1) for key in CONCEPT} <= controls.keys()
    for key, setting in SETTINGS.items():
        assert controls[f"db_{key}"].label == setting.label
    length = controls["db_max_token_length"]  # its number is text there, and comes back as a number
    assert length.value == "75" and Fields(SETTINGS).update("max_token_length", 150)["value"] == "150"
    assert parse(Settings, {"max_token_length": "150"}).max_token_length == 150


@pytest.mark.skipif(MAJOR < 6, reason="only Gradio 6 records loading statuses")
def test_no_event_records_loading_statuses_of_many_fields(tmp_path):
    """Gradio 6 goes through all records at each later event: hundreds of them keep a core busy."""
    for event in build(StandaloneHost(tmp_path)).config["dependencies"]:
        assert event["show_progress_on"] == []
        assert len(event["inputs"]) <= MAX_DIRECT_INPUTS + 2 or not event["backend_fn"], event[
            "targets"
        ]  # payload, state


@pytest.mark.skipif(MAJOR < 4, reason="3.41 has no such change events")
def test_no_event_depends_on_changes_of_html_which_gradio_4_fires_at_every_render(tmp_path):
    page = build(StandaloneHost(tmp_path))
    for event in page.config["dependencies"]:
        for target, kind in event["targets"]:
            assert kind != "change" or page.blocks[target].get_block_name() != "html", event["targets"]


def test_settings_without_effect_are_disabled():
    fields = Fields(SETTINGS)
    values = {key: SETTINGS[key].default for key in fields.dependencies()}
    disabled = fields.without_effect(list({**values, "use_lora": True}.values()))
    assert "db_learning_rate" in disabled and not {"db_lora_unet_rank", "db_seed"} & set(disabled)
    disabled = fields.without_effect(list({**values, "use_lora": False}.values()))
    assert "db_lora_unet_rank" in disabled and "db_learning_rate" not in disabled
