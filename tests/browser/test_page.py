"""The page in the browser, with every Gradio: from the first click to the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dreambooth.settings import CONCEPT, SETTINGS
from tests.browser.visitor import Visitor

SUBJECT = Path(__file__).resolve().parents[2] / "dreambooth" / "embedded" / "subject"


@pytest.fixture
def images(tmp_path) -> Path:
    return Path(shutil.copytree(SUBJECT, tmp_path / "images"))


def config(served, name: str) -> dict:
    return json.loads((served.models / "dreambooth" / name / "db_config.json").read_text(encoding="utf-8"))


def quick(visitor: Visitor, images: Path, **more: object) -> None:
    """Fill in settings with which a step takes little time."""
    visitor.tab("Settings")
    for group in ("intervals", "image_processing"):
        visitor.open_accordion(f"db_group_settings_{group}")
    visitor.fill(resolution=64, **more)
    visitor.tab("Concepts")
    visitor.open_accordion("db_c1")
    visitor.fill(c1_instance_data_dir=images)
    visitor.open_accordions()
    visitor.fill(c1_n_save_sample=1, c1_save_infer_steps=2)


def test_from_the_first_click_to_the_checkpoint(served, visitor, images, tmp_path):
    """Create, settings, concepts, save, train, preview, pause, reload, samples, cancel, checkpoint, load params."""
    visitor.create("first toy")
    visitor.sees_value("model_name", "first toy")
    visitor.sees("facts", "mini-sd.safetensors")

    quick(visitor, images, num_train_epochs=100_000, save_preview_every=20)
    visitor.press("check")
    visitor.sees("captions", "a zwx toy on a black background")
    visitor.sees("forecast", "6 images")
    visitor.press("save_params")
    visitor.sees("message", "Saved the parameters of first toy")
    saved = config(served, "first toy")
    assert (saved["num_train_epochs"], saved["resolution"], saved["use_lora"]) == (100_000, 64, True)
    assert saved["concepts_list"][0]["instance_data_dir"] == str(images)

    visitor.tab("Settings")
    visitor.fill(num_train_epochs=90_000)  # not saved: Train uses the parameters of the page
    visitor.press("train")
    visitor.sees("status", "step ")
    assert not visitor.enabled("train") and not visitor.enabled("create") and visitor.enabled("cancel")
    assert config(served, "first toy")["num_train_epochs"] == 90_000
    visitor.page.wait_for_selector("#db_gallery img")
    visitor.sees("loss_chart", "learning rate")
    visitor.screenshot(tmp_path / "training.png")
    for width, height in ((390, 844), (1366, 768)):
        visitor.page.set_viewport_size({"width": width, "height": height})
        visitor.page.evaluate("scrollTo(0, document.body.scrollHeight)")
        visitor.sees_in_view("train", "cancel", "status")

    visitor.press("pause")
    visitor.sees("status", "Paused.")
    visitor.sees("pause", "Resume")
    visitor.reload()  # the page finds the running job again
    visitor.sees("status", "Paused.")
    visitor.page.wait_for_selector("#db_gallery img")
    visitor.sees("loss_chart", "learning rate")
    visitor.tab("Settings")
    visitor.sees_disabled("num_train_epochs")
    assert visitor.value("num_train_epochs") == "90000"

    visitor.press("sample_now")
    visitor.press("pause")
    visitor.sees("pause", "Pause")
    visitor.sees("status", "Training first toy: step")
    visitor.press("save_now")
    visitor.sees("files", "LoRA")
    visitor.press("cancel")
    visitor.sees("status", "Training was canceled")
    visitor.sees("files", "Snapshot")
    visitor.sees_value("snapshot", "latest")
    assert list((served.models / "Lora").glob("first toy_*.safetensors"))

    visitor.press("generate_ckpt")
    visitor.sees("status", "Use it now: choose the checkpoint")
    visitor.sees_in_view("status")
    visitor.sees("files", "Checkpoint")
    visitor.sees("files", "Snapshot")
    visitor.sees("loss_chart", "learning rate")
    visitor.page.wait_for_selector("#db_gallery img")
    assert list((served.models / "Stable-diffusion").rglob("*.safetensors"))

    visitor.create("second toy")
    visitor.sees_value("model_name", "second toy")
    visitor.tab("Settings")
    visitor.sees_value("num_train_epochs", "300")
    visitor.choose("load_params_from", "first toy")
    visitor.press("load_params")
    visitor.sees_value("num_train_epochs", "90000")
    visitor.press("save_params")
    visitor.sees("message", "Saved the parameters of second toy")
    assert config(served, "second toy")["num_train_epochs"] == 90_000
    assert not visitor.problems


def test_bad_input_gets_a_line_and_loses_nothing(served, browser, visitor, images):
    visitor.tab("Create")
    for name, error in {"a/b": "is not valid as", "x" * 300: "too long", ".": "is not valid as"}.items():
        visitor.fill(new_model_name=name)
        visitor.press("create")
        visitor.sees("create_said", error)
    visitor.create("bad 🧸 input")
    visitor.tab("Create")
    visitor.fill(new_model_name="bad 🧸 input")
    visitor.press("create")
    visitor.sees("create_said", "A model named bad 🧸 input already exists")

    visitor.sees_value("model_name", "bad 🧸 input")
    quick(visitor, images.parent / "nowhere")
    visitor.press("train")
    visitor.sees("status", "nowhere")
    visitor.fill(c1_instance_data_dir=images)
    visitor.tab("Settings")
    visitor.fill(num_train_epochs=-5)
    visitor.press("save_params")
    visitor.sees("message", "outside the range 1 to")
    assert config(served, "bad 🧸 input")["num_train_epochs"] == 300
    visitor.tab("Concepts")
    visitor.page.click("#db_message .db_goto")  # a link to the field, in another tab
    visitor.page.wait_for_selector("#db_num_train_epochs", state="visible")

    visitor.fill(num_train_epochs=50_000)
    visitor.sees_no_error("message")  # the field was edited
    visitor.open_accordion("db_group_settings_tuning")
    visitor.choose("mixed_precision", "fp16 — needs an NVIDIA or AMD GPU")
    visitor.sees("message", "fp16 can't be used on this machine: it needs an NVIDIA or AMD GPU")
    visitor.choose("mixed_precision", "auto")
    visitor.sees_no_error("message")
    visitor.tab("Concepts")
    visitor.press("check")
    visitor.sees("message", "Ready to train")
    visitor.sees("status", "Ready.")  # instead of the error of the failed run
    second = Visitor(browser, served.url)
    second.tab("Select")
    second.choose("model_name", "bad 🧸 input")
    visitor.press("train")
    visitor.sees("status", "Training bad 🧸 input")
    second.sees("status", "Training bad 🧸 input")  # another browser sees the same run
    second.sees("why", "is running")
    second.press("cancel")
    visitor.sees("status", "canceled")
    second.close()
    assert not visitor.problems


def test_settings_without_effect_are_disabled(onlooker):
    onlooker.tab("Settings")
    onlooker.open_accordion("db_group_settings_learning_rate")
    onlooker.check("use_lora")
    onlooker.sees_disabled("learning_rate")
    onlooker.sees_disabled("lora_learning_rate", False)
    onlooker.check("use_lora", False)
    onlooker.sees_disabled("lora_learning_rate")
    onlooker.sees_disabled("learning_rate", False)


def test_the_reason_is_text_below_the_disabled_control(served, visitor):
    """It can be read out and selected, unlike what is inert, and describes the control."""
    visitor.create("reasons")
    visitor.tab("Settings")
    visitor.open_accordions()
    visitor.sees_disabled("resolution_shift")
    reason = visitor.page.locator("#db_resolution_shift").get_by_text("Not with Stable Diffusion 1.x: it is defined")
    assert reason.evaluate("(part) => !part.closest('[inert]') && getComputedStyle(part).userSelect") == "text"
    reason.click(click_count=3)
    assert "defined for flow matching alone." in visitor.page.evaluate("getSelection().toString()")
    described = visitor.page.get_by_role("group", name="Resolution-dependent shift", exact=True, disabled=True)
    assert described.get_attribute("aria-describedby") == reason.get_attribute("id") == "db_resolution_shift_reason"

    assert not visitor.text("learning_rate").endswith("locked by a running job.")
    visitor.page.evaluate("document.querySelector('#db_learning_rate').classList.add('db_revealed')")
    visitor.sees("learning_rate", "Without effect with the other settings, or locked by a running job.")
    visitor.check("use_lora", False)
    visitor.sees_disabled("learning_rate", False)
    assert not visitor.page.locator("#db_learning_rate").locator(".db_reason, [inert]").count()
    assert not visitor.page.locator("#db_learning_rate:is([role], [aria-label], [aria-describedby])").count()
    assert not visitor.problems


def test_places_of_the_old_extension_lead_to_the_controls(onlooker):
    for tab, link, field in (("Saving", "LoRA UNET rank", "lora_unet_rank"), ("Saving", "Half model", "half_model"),
                             ("Concepts", "Training Wizard", "training_wizard_person")):  # fmt: skip
        onlooker.tab(tab)
        onlooker.page.locator(".db_signpost .db_goto:visible", has_text=link).first.click()
        onlooker.sees_in_view(field)


def test_a_server_that_does_not_answer_or_was_restarted_is_shown(onlooker):
    onlooker.page.route("**/app_id", lambda route: route.abort())
    onlooker.sees("connection", "The WebUI does not answer")
    onlooker.page.unroute("**/app_id")
    onlooker.page.wait_for_function("!document.querySelector('#db_connection').innerText")
    onlooker.page.route("**/app_id", lambda route: route.fulfill(json={"app_id": 1}))
    onlooker.sees("connection", "The WebUI was restarted. Reload this page")
    onlooker.page.unroute("**/app_id")
    onlooker.reload()
    assert onlooker.text("connection") == ""


def test_every_declared_setting_has_its_control(onlooker):
    ids = set(onlooker.page.evaluate("[...document.querySelectorAll('[id^=db_]')].map((e) => e.id)"))
    for tab in ("Concepts", "Saving", "Create", "Select", "Settings"):  # some Gradios render a tab when it is opened
        onlooker.tab(tab)
        onlooker.open_accordions()
        ids |= set(onlooker.page.evaluate("[...document.querySelectorAll('[id^=db_]')].map((e) => e.id)"))
    assert onlooker.value("max_token_length") == "75"  # a number among choices
    concepts = {f"db_c{number}_{key}" for number in (1, 2, 3) for key in CONCEPT}
    assert {f"db_{key}" for key in SETTINGS} | concepts <= ids


def test_the_title_shows_progress(onlooker):
    onlooker.page.evaluate(
        "document.querySelector('#db_progress').innerHTML = '<div class=db_moving><progress value=0.41></progress>'"
    )
    onlooker.page.wait_for_function("document.title.startsWith('[Dreambooth 41%] ')")
