"""The page as a person uses it, alone and with the Gradio of each WebUI: from the first click to the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dreambooth.settings import CONCEPT, SETTINGS
from tests.browser.visitor import Visitor

SUBJECT = Path(__file__).resolve().parents[2] / "dreambooth" / "embedded" / "subject"


@pytest.fixture
def pictures(tmp_path) -> Path:
    return Path(shutil.copytree(SUBJECT, tmp_path / "pictures"))


def config(served, name: str) -> dict:
    return json.loads((served.models / "dreambooth" / name / "db_config.json").read_text(encoding="utf-8"))


def quick(visitor: Visitor, pictures: Path, **more: object) -> None:
    """Settings under which a step takes no time, typed as a person would."""
    visitor.tab("Settings")
    for group in ("intervals", "image_processing"):
        visitor.unfold(f"db_group_settings_{group}")
    visitor.fill(resolution=64, **more)
    visitor.tab("Concepts")
    visitor.unfold("db_c1")
    visitor.fill(c1_instance_data_dir=pictures)
    visitor.unfold_all()
    visitor.fill(c1_n_save_sample=1, c1_save_infer_steps=2)


def test_from_the_first_click_to_the_checkpoint(served, visitor, pictures, tmp_path):
    """Create, settings, concepts, save, train, preview, pause, reload, samples, cancel, checkpoint, load params."""
    visitor.create("first toy")
    visitor.sees_value("model_name", "first toy")
    visitor.sees("facts", "mini-sd.safetensors")

    quick(visitor, pictures, num_train_epochs=100_000, save_preview_every=2)
    visitor.press("check")
    visitor.sees("captions", "a zwx toy on a black background")
    visitor.sees("forecast", "6 pictures")
    visitor.press("save_params")
    visitor.sees("message", "Saved the parameters of first toy")
    saved = config(served, "first toy")
    assert (saved["num_train_epochs"], saved["resolution"], saved["use_lora"]) == (100_000, 64, True)
    assert saved["concepts_list"][0]["instance_data_dir"] == str(pictures)

    visitor.tab("Settings")
    visitor.fill(num_train_epochs=90_000)  # not saved: Train trains what the page shows
    visitor.press("train")
    visitor.sees("status", "step ")
    assert not visitor.enabled("train") and not visitor.enabled("create") and visitor.enabled("cancel")
    assert config(served, "first toy")["num_train_epochs"] == 90_000
    visitor.page.wait_for_selector("#db_gallery img")
    visitor.sees("loss_chart", "learning rate")
    visitor.screenshot(tmp_path / "training.png")

    visitor.press("pause")
    visitor.sees("status", "Paused.")
    visitor.sees("pause", "Resume")
    visitor.reload()  # a closed laptop comes back to the run that is going on
    visitor.sees("status", "Paused.")
    visitor.page.wait_for_selector("#db_gallery img")
    visitor.sees("loss_chart", "learning rate")
    visitor.tab("Settings")
    visitor.sees_greyed("num_train_epochs")
    assert visitor.value("num_train_epochs") == "90000"

    visitor.press("sample_now")
    visitor.press("pause")
    visitor.sees("pause", "Pause")
    visitor.sees("status", "Training first toy: step")
    visitor.press("save_now")
    visitor.sees("files", "LoRA")
    visitor.press("cancel")
    visitor.sees("status", "Training was cancelled")
    visitor.sees("files", "Snapshot")
    visitor.sees_value("snapshot", "latest")
    assert list((served.models / "Lora").glob("first toy_*.safetensors"))

    visitor.press("generate_ckpt")
    visitor.sees("files", "Checkpoint")
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


def test_bad_input_gets_a_line_and_loses_nothing(served, browser, visitor, pictures):
    visitor.tab("Create")
    for name, said in {"a/b": "cannot be a model's name", "x" * 300: "too long", ".": "cannot be"}.items():
        visitor.fill(new_model_name=name)
        visitor.press("create")
        visitor.sees("create_said", said)
    visitor.create("bad 🧸 input")
    visitor.tab("Create")
    visitor.fill(new_model_name="bad 🧸 input")
    visitor.press("create")
    visitor.sees("create_said", "There is a model bad 🧸 input already")

    visitor.sees_value("model_name", "bad 🧸 input")
    quick(visitor, pictures.parent / "nowhere")
    visitor.press("train")
    visitor.sees("status", "nowhere")
    visitor.fill(c1_instance_data_dir=pictures)
    visitor.tab("Settings")
    visitor.fill(num_train_epochs=-5)
    visitor.press("save_params")
    visitor.sees("message", "outside 1 to")
    assert config(served, "bad 🧸 input")["num_train_epochs"] == 300
    visitor.tab("Concepts")
    visitor.page.click("#db_message .db_goto")  # leads to the field, in another tab
    visitor.page.wait_for_selector("#db_num_train_epochs", state="visible")

    visitor.fill(num_train_epochs=50_000)
    second = Visitor(browser, served.url)
    second.tab("Select")
    second.choose("model_name", "bad 🧸 input")
    visitor.press("train")
    visitor.sees("status", "Training bad 🧸 input")
    second.sees("status", "Training bad 🧸 input")  # another browser sees the same run
    second.sees("why", "is going on")
    second.press("cancel")
    visitor.sees("status", "cancelled")
    second.close()
    assert not visitor.problems


def test_what_does_not_apply_is_greyed(onlooker):
    onlooker.tab("Settings")
    onlooker.unfold("db_group_settings_learning_rate")
    onlooker.check("use_lora")
    onlooker.sees_greyed("learning_rate")
    onlooker.sees_greyed("lora_learning_rate", False)
    onlooker.check("use_lora", False)
    onlooker.sees_greyed("lora_learning_rate")
    onlooker.sees_greyed("learning_rate", False)


def test_every_declared_setting_has_its_control(onlooker):
    ids = set(onlooker.page.evaluate("[...document.querySelectorAll('[id^=db_]')].map((e) => e.id)"))
    for tab in ("Concepts", "Saving", "Create", "Select", "Settings"):  # some Gradios draw a tab when it is opened
        onlooker.tab(tab)
        onlooker.unfold_all()
        ids |= set(onlooker.page.evaluate("[...document.querySelectorAll('[id^=db_]')].map((e) => e.id)"))
    assert onlooker.value("max_token_length") == "75"  # a number that is one of a list
    concepts = {f"db_c{number}_{key}" for number in (1, 2, 3) for key in CONCEPT}
    assert {f"db_{key}" for key in SETTINGS} | concepts <= ids


def test_the_browsers_title_tells_how_far_a_run_is(onlooker):
    onlooker.page.evaluate(
        "document.querySelector('#db_progress').innerHTML = '<div class=db_moving><progress value=0.41></progress>'"
    )
    onlooker.page.wait_for_function("document.title.startsWith('[Dreambooth 41%] ')")
