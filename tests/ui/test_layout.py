"""Controls of the page are created from the declarations of the settings."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("gradio")

import gradio as gr

from dreambooth.hosts import StandaloneHost
from dreambooth.settings import CONCEPT, CREATE_OPTIONS, SETTINGS, Setting, Settings, parse
from dreambooth.ui import build
from dreambooth.ui.concepts_tab import MAX_CONCEPTS
from dreambooth.ui.fields import Fields
from dreambooth.ui.gradio_versions import MAJOR, MAX_DIRECT_INPUTS
from dreambooth.ui.links import concept_link, setting_link
from dreambooth.ui.signposts import SIGNPOSTS, signposts


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


def test_links_name_the_tab_and_accordion_of_their_control(tmp_path):
    """Gradio 6 renders a control only when both are open, so that the browser can't search for it."""
    controls = ids(build(StandaloneHost(tmp_path)))
    texts = [html for tab in {tab for tab, _ in SIGNPOSTS} for html in signposts(tab).values()]
    texts += [*map(setting_link, SETTINGS), *(concept_link(2, key) for key in CONCEPT)]
    links = re.findall(r'href="#(.*?)" class="db_goto" data-tab="(.*?)" data-accordion="(.*?)"', "".join(texts))
    assert len(links) > len(SETTINGS) + len(CONCEPT)
    for target, tab, accordion in links:
        around = [controls[target]]
        while around[-1].parent is not None:
            around.append(around[-1].parent)
        assert tab in [getattr(block, "id", None) for block in around if isinstance(block, gr.TabItem)], target
        outermost = [block.elem_id for block in around if isinstance(block, gr.Accordion)][-1:]
        assert outermost == ([accordion] if accordion else []), target


@pytest.mark.parametrize(
    ("tab", "group", "text", "targets"),
    [
        ("Saving", "LoRA", "LoRA rank", {"db_lora_unet_rank", "db_lora_learning_rate"}),
        ("Settings", "General", "LoRA", {"db_lora_learning_rate"}),
        ("Settings", "Tuning", "Cache Latents: always on", {"db_train_unet"}),
        ("Saving", "Checkpoints", "", {"db_half_model"}),
    ],
)
def test_places_of_the_old_extension_lead_to_the_controls(tab, group, text, targets):
    html = signposts(tab)[group]
    assert text in html and targets <= set(re.findall(r'href="#(.*?)"', html))
